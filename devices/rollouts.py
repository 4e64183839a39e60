"""A roll-out: a release goes to a few devices first, then to more, as long as they come through it. No input or output.

The devices stand in an order that does not change, and each step says how many of them may have the release. A step is
over when all of its devices run it, or could not take it; too many of the latter pause the roll-out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from hashlib import sha256

import msgspec

from edge_runtime import wire_ota
from edge_runtime.errors import EdgeError

RUNNING, PAUSED, ABORTED, DONE = "running", "paused", "aborted", "done"
BELIEVED = (1 << 32) - (1 << 24)
"""A larger number, of a board, is a lie or a fault: there have to be some left for the roll-outs to come."""
CANARY = 10
"""Per cent of the devices that are the first step, unless a roll-out says otherwise."""


class Stand(Enum):
    """Where a device is in a roll-out."""

    WAITS = "waits"
    """It is not its turn yet."""
    DUE = "due"
    """It may have the release, and has not said that it fetches it."""
    FETCHING = "fetching"
    TRIAL = "on trial"
    RUNS = "runs it"
    FAILED = "failed"
    ROLLED_BACK = "rolled back"
    REMOVED = "removed"
    """It is no device any more: nobody waits for it."""


SETTLED = (Stand.RUNS, Stand.FAILED, Stand.ROLLED_BACK)
BAD = (Stand.FAILED, Stand.ROLLED_BACK)


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a device has last reported; ids of releases in hex."""

    at: int
    state: str = "idle"
    running: str = ""
    subject: str = ""
    detail: str = ""
    platform: str = ""
    number: int = 0
    done: int = 0
    total: int = 0
    highest: int = 0
    """The highest `number` that it ever reported: it takes no offer that is not above it."""

    @classmethod
    def of(cls, report: wire_ota.Report, at: int, highest: int = 0) -> Told:
        """A report from the wire, and what was the `highest` before."""
        r = report
        state = wire_ota.STATES[r.state]
        highest = max(highest, r.number if r.number <= BELIEVED else 0)
        return cls(
            at, state, r.running.hex(), r.subject.hex(), r.detail, r.platform, r.number, r.done, r.total, highest
        )


class Rollout(msgspec.Struct, frozen=True):
    """As it is kept; a change is another one."""

    number: int
    """Above that of all earlier ones, and of all that boards say they took: they take no offer that is older."""
    release: str
    """The id, in hex."""
    name: str
    version: str
    devices: list[str]
    """In the order in which they come."""
    steps: list[int]
    """How many devices have had their turn by the end of each step; the last is all of them."""
    created: int
    state: str = RUNNING
    step: int = 0
    why: str = ""
    """What has paused it."""
    tolerated: int = 0
    """Devices that may fail without pausing it."""
    forgiven: int = 0
    """Devices that had failed when somebody had it go on."""
    soak: int = 0
    """Microseconds that a step has to stand before the next one begins."""
    settled: int = 0
    """Since when all devices of the step are through; 0 while they are not."""
    ended: int = 0

    @property
    def allowed(self) -> list[str]:
        """The devices that have their turn."""
        return self.devices[: self.steps[self.step]]

    def stand(self, device: str, told: Told | None, allowed: bool | None = None) -> Stand:
        """Where a device is, by what it has reported; `allowed`: whether it has its turn, where that is known."""
        if told is not None:
            if told.running == self.release and told.state in ("idle", "fetching", "failed"):
                return Stand.RUNS
            if told.running == self.release and told.state == "on trial":
                return Stand.TRIAL
            if told.number == self.number:
                found = {"fetching": Stand.FETCHING, "failed": Stand.FAILED, "rolled back": Stand.ROLLED_BACK}
                if told.state in found:
                    return found[told.state]
        if allowed is None:
            allowed = device in self.allowed
        return Stand.DUE if allowed else Stand.WAITS

    def stands(self, told: Mapping[str, Told]) -> list[tuple[str, Stand]]:
        """Where all of its devices are."""
        upto = self.steps[self.step]
        return [(device, self.stand(device, told.get(device), n < upto)) for n, device in enumerate(self.devices)]

    def moved(self, told: Mapping[str, Told], now: int, removed: Collection[str] = ()) -> Rollout:
        """This roll-out after what devices have reported: paused, a step further, done, or the same.

        `removed`: those that are no devices any more.
        """
        if self.state != RUNNING:
            return self
        stands = [self.stand(device, told.get(device), True) for device in self.allowed if device not in removed]
        bad = sum(stand in BAD for stand in stands)
        change = msgspec.structs.replace
        if bad - self.forgiven > self.tolerated:
            return change(self, state=PAUSED, why=f"{bad} of {len(stands)} devices have failed", settled=0)
        if any(stand not in SETTLED for stand in stands):
            return change(self, settled=0) if self.settled else self
        if self.settled == 0 and self.soak:
            return change(self, settled=now)
        if now - self.settled < self.soak:
            return self
        return self.next(now)

    def next(self, now: int) -> Rollout:
        """A step further, or done."""
        if self.step + 1 == len(self.steps):
            return msgspec.structs.replace(self, state=DONE, ended=now, settled=0)
        return msgspec.structs.replace(self, step=self.step + 1, settled=0)

    def paused(self) -> Rollout:
        """Paused by a person: nothing is offered, and what is under way stands still."""
        if self.state != RUNNING:
            raise EdgeError(f"the roll-out {self.number} is {self.state}")
        return msgspec.structs.replace(self, state=PAUSED, why="by a person", settled=0)

    def resumed(self, told: Mapping[str, Told], now: int, *, go_on: bool = False) -> Rollout:
        """Running again, what has failed until now forgiven; with `go_on` in its next step, whoever is missing."""
        if self.state not in (RUNNING, PAUSED) or (self.state == RUNNING and not go_on):
            raise EdgeError(f"the roll-out {self.number} is {self.state}")
        bad = sum(self.stand(device, told.get(device), True) in BAD for device in self.allowed)
        again = msgspec.structs.replace(self, state=RUNNING, why="", forgiven=bad)
        return again.next(now) if go_on else again

    def aborted(self, now: int) -> Rollout:
        """Over for good: nothing more is offered. Devices that run the release go on doing so."""
        if self.state not in (RUNNING, PAUSED):
            raise EdgeError(f"the roll-out {self.number} is {self.state}")
        return msgspec.structs.replace(self, state=ABORTED, ended=now, settled=0)


def next_number(now: int, kept: Iterable[int], told: Iterable[Told]) -> int:
    """The number of a new roll-out: the time in seconds or, where the gateway's clock is behind, one above the last.

    `now`: microseconds; `kept`: the numbers of roll-outs that are remembered.
    """
    last = max([*kept, *(each.highest for each in told)], default=0)
    return max(min(now // 1_000_000, BELIEVED), last + 1)


def order(devices: Iterable[str], number: int, first: Sequence[str] = ()) -> list[str]:
    """The devices in the order of a roll-out: those named first, the others by chance, but always the same."""
    rest = sorted(set(devices) - set(first), key=lambda device: sha256(f"{number}/{device}".encode()).digest())
    return [*dict.fromkeys(first), *rest]


def steps_of(count: int, canary: int, shares: Sequence[int]) -> list[int]:
    """How many devices there are by the end of each step: a first one of `canary`, then shares in per cent, then all.

    Raises EdgeError for shares that do not rise.
    """
    if list(shares) != sorted(set(shares)) or any(not 0 < share <= 100 for share in shares):
        raise EdgeError("the steps of a roll-out are per cent, each more than the one before", hint="Such as 25,50.")
    upto = [max(canary, -(-count * share // 100)) for share in shares]
    return sorted({min(count, n) for n in [canary, *upto, count] if n > 0})


Tell = Callable[[str, str, bytes], bool]
"""Hand a device (first) something on `ota/` and a word (second), if it is connected; whether it is on its way."""
