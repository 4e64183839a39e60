"""What the journal holds. Effects are records; every table is a projection of them."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_runtime.events import Event, Origin


class Command(msgspec.Struct, frozen=True, array_like=True, tag="command"):
    """An order to a device, in the outbox until the device replies or it expires."""

    device: str
    name: str
    args: Any
    created: int
    expires: int
    origin: Origin
    cause: tuple[bytes, int] | None = None
    """Boot and sequence of the device's own event that caused it, where there is one."""
    key: str = ""
    """Where it has one: the newest command of a device with this key replaces the older ones."""

    @property
    def id(self) -> bytes:
        """16 bytes, the same however often the command is computed."""
        return self.origin.id()


class CommandEnd(msgspec.Struct, frozen=True, array_like=True, tag="command-end"):
    """The end of a command: a device's reply, or its expiry."""

    command: bytes
    device: str
    status: int
    """As on the wire: 0 done, 1 failed, 2 no such command, 3 expired. Never there: 4 replaced by a newer one."""
    result: Any
    time: int


class DeadLetter(msgspec.Struct, frozen=True, array_like=True, tag="dead-letter"):
    """Something that could not be processed, kept for a person to see."""

    flow: str
    """The flow that gave up, or `ingress` for what a board sent."""
    reason: str
    """One word: `error`, `timeout`, `memory`, `crash`, `output`, `invalid`, `conflict`, `sequence`, `boots`,
    `throttled`, `rejected`, `hops`."""
    detail: str
    time: int
    device: str
    event: Event | None = None
    topic: str = ""
    payload: bytes = b""
    version: str = ""
    attempts: int = 1
    at: int = -1
    """The offset of the event; -1 where that is not known."""


class Retry(msgspec.Struct, frozen=True, array_like=True, tag="retry"):
    """A dead letter's event is handed to its flow once more; the letter is settled by it."""

    flow: str
    letter: int
    """The offset of the dead letter."""
    event: Event
    time: int
    at: int = -1
    """As in the dead letter."""


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag="dropped"):
    """Somebody has decided that a dead letter needs no more attention."""

    letter: int
    time: int


Entry = tuple[str, int]
"""A value that a function keeps, as JSON that only the function reads; and when it expires (microseconds, by the
`received` of its events; 0 for never)."""

State = dict[str, Entry]
"""What a function keeps of one partition key, by names that it chose."""


class StateChange(msgspec.Struct, frozen=True, array_like=True, tag="state"):
    """A flow keeps something else of a partition key from here on. Entries that are not named stay as they are."""

    flow: str
    key: str
    entries: dict[str, Entry | None]
    """The new ones; None for those that are gone."""
    before: dict[str, Entry | None]
    """What stood in their place; None for nothing. With it the change can be undone, however old the rest is."""
    at: int = -1
    """The offset of the event at which it was made; of a change by a rewind, where the flow went on from."""


class Rewriting(msgspec.Struct, frozen=True, array_like=True):
    """What a flow keeps is being put back, and the flow does not run until that is done."""

    after: int
    """To what it was once everything up to here had been dealt with; -1 for nothing at all."""
    until: int
    """Where the journal ended when this was asked for."""


REMOVED_KEPT = 7 * 86_400_000_000
"""Microseconds: a week, in which somebody will have noticed."""


class FlowState(msgspec.Struct, frozen=True, array_like=True, tag="flow"):
    """A flow was created or given a new generation: whoever still holds the old one can no longer commit."""

    flow: str
    generation: int
    epoch: int
    cursor: int
    """Where it stands, as in `Progress`; -1 for nothing dealt with."""
    slots: dict[int, int] = {}
    held: dict[str, int] = {}
    paused: bool = False
    quiet_until: int = -1
    """Up to this offset it only catches up: commands and deliveries to the outside are withheld."""
    again_after: int = -1
    again_until: int = -1
    """The last rewind went back to behind the first, when the journal ended with the second. Events between them are
    taken again themselves, so retries of their older dead letters are void: each takes effect once per epoch.
    """
    removed: int = 0
    """When its trigger was removed; 0 while there is one. Its progress is kept for `REMOVED_KEPT`, for a rollback."""
    again_done: int = -1
    """What the flow had dealt with when it was rewound: retries up to here were taken before, and are void."""
    lanes: int = 1
    """How many of its batches may be under way at a time."""
    rate: float | None = None
    """How many events a second it may take; None for no limit."""
    rewriting: Rewriting | None = None


class Progress(msgspec.Struct, frozen=True, array_like=True, tag="progress"):
    """How far a flow has come: an event at `offset` with partition key `key` has been dealt with if and only if
    `offset <= held[key]`, or without such an entry `offset <= slots[slot of key]`, or without that `offset <= cursor`.
    """

    flow: str
    generation: int
    cursor: int
    slots: dict[int, int] = {}
    """The hash slots that are behind the cursor, and where they stand."""
    held: dict[str, int] = {}
    """The partition keys that are held back behind the rest, and where they stand."""


class Timer(msgspec.Struct, frozen=True, array_like=True, tag="timer"):
    """An event that is to come. One with a key takes the place of the pending one of its flow, device and key."""

    flow: str
    event: Event
    """As it will be; `time` and `received` are filled in when it comes."""
    set: int
    """When this was asked for, by the gateway's clock."""
    after: int
    """Microseconds of running time that it is to wait."""
    key: str = ""
    at: int = -1
    """The offset of the event that has caused it; -1 where there is none."""
    moment: int = 0
    """Where it is not 0: it comes at this moment of the wall clock, whatever `after` says."""
    repeats: str = ""
    """The schedule that it belongs to, where it is a tick of one."""

    @property
    def id(self) -> str:
        """That of the event to come."""
        return self.event.id


class TimerFired(msgspec.Struct, frozen=True, array_like=True, tag="timer-fired"):
    """A timer has ended; its event stands right behind this record."""

    timer: str


class TimerCancelled(msgspec.Struct, frozen=True, array_like=True, tag="timer-cancelled"):
    """Whatever was pending under this key is not wanted any more."""

    flow: str
    device: str
    key: str


class ClockSet(msgspec.Struct, frozen=True, array_like=True, tag="clock"):
    """The wall clock was set while the gateway ran: where it would have said `before`, it says `after`."""

    before: int
    after: int


class Trimmed(msgspec.Struct, frozen=True, array_like=True, tag="trimmed"):
    """Retention has removed every record up to and including `upto`."""

    upto: int
    time: int


class Gap(msgspec.Struct, frozen=True, array_like=True, tag="gap"):
    """Retention has removed records, from `first` to `last`, that a flow had not dealt with."""

    flow: str
    first: int
    last: int
    time: int


class Key(msgspec.Struct, frozen=True, array_like=True):
    """One way in which a device proves who it is."""

    id: str
    type: str
    """`token`, `hs256`, `es256`, `rs256`, `x509` or `oscore`."""
    data: bytes
    """SHA-256 of a token (256 random bits, not kept) or of a certificate; a public key (DER); and, which are secrets:
    the key of HS256, an OSCORE context."""
    created: int
    expires: int = 0
    """From then on it is void; 0 for never."""


class Device(msgspec.Struct, frozen=True, array_like=True, tag="device"):
    """A device was added, changed or removed; the newest record per id stands."""

    id: str
    key_digest: bytes
    """SHA-256 of its token, in records from before a device could have several keys; else empty."""
    created: int
    blocked: bool = False
    keys: list[Key] = []
    tags: dict[str, str] = {}
    profile: str = "device"
    """Which contract it speaks: `device` (our own) or `iotcore`."""
    removed: int = 0
    """When it was removed; 0 while it is there."""

    @property
    def all_keys(self) -> list[Key]:
        """Its keys, in whichever form the record has them."""
        return [Key("1", "token", self.key_digest, self.created), *self.keys] if self.key_digest else self.keys


class AppVersion(msgspec.Struct, frozen=True, array_like=True, tag="app"):
    """An app went live in a version; the newest record per name stands."""

    app: str
    version: str
    time: int
    earlier: list[tuple[str, int]] = []
    """What a rollback goes back to: versions that were live before, and since when, the newest first."""


class AppToken(msgspec.Struct, frozen=True, array_like=True, tag="app-token"):
    """An app has a new token for its endpoints; the newest record per app stands."""

    app: str
    digest: bytes
    """SHA-256 of the token, which is 256 random bits and is not kept."""
    time: int


Record = (
    Event
    | Command
    | CommandEnd
    | DeadLetter
    | Retry
    | Dropped
    | FlowState
    | Progress
    | StateChange
    | Timer
    | TimerFired
    | TimerCancelled
    | ClockSet
    | Trimmed
    | Gap
    | Device
    | AppVersion
    | AppToken
)


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record and the offset at which it stands.

    Without a place in the garbage collector's lists (it cannot be part of a cycle): a flow that catches up makes
    thousands, and the collections they would set off were the p99 of everybody else (ADR 0007).
    """

    offset: int
    record: Record
