"""What the daemon and the journal writer say to each other: length-prefixed msgpack frames, answered in order."""

from __future__ import annotations

import struct

import msgspec

from edge_runtime.journal.interface import Placed, Tables, Usage
from edge_runtime.journal.records import Record, State
from edge_runtime.journal.retention import Retention

LENGTH = struct.Struct("<I")


class Settings(msgspec.Struct):
    """What the writer process is started with."""

    max_bytes: int
    retention: Retention


class Op(msgspec.Struct, array_like=True):
    """Records to be stored together. With a `flow`, only if `generation` is still that flow's."""

    records: list[Record]
    flow: str = ""
    generation: int = 0


class Write(msgspec.Struct, array_like=True, tag="write"):
    """Do these in one transaction."""

    ops: list[Op]


class WriteEncoded(msgspec.Struct, array_like=True, tag="write"):
    """`Write` as the client sends it: each `Op` is encoded already."""

    ops: list[msgspec.Raw]


class Read(msgspec.Struct, array_like=True, tag="read"):
    """Read on from an offset."""

    after: int
    limit: int


class ReadTables(msgspec.Struct, array_like=True, tag="tables"):
    """Hand over the projections."""


class ReadStates(msgspec.Struct, array_like=True, tag="states"):
    """Hand over what a flow keeps of these partition keys."""

    flow: str
    keys: list[str]


class ReadEntries(msgspec.Struct, array_like=True, tag="entries"):
    """Hand over what a flow keeps under these names, by partition key. Answered as `ReadStates`."""

    flow: str
    names: dict[str, list[str]]


class ReadStateKeys(msgspec.Struct, array_like=True, tag="state-keys"):
    """Name partition keys of which a flow keeps something."""

    flow: str
    after: str
    limit: int


class Tick(msgspec.Struct, array_like=True, tag="tick"):
    """What time it is, for retention; answered with how full the journal is."""

    now: int
    monotonic: int
    trusted: bool


class Backup(msgspec.Struct, array_like=True, tag="backup"):
    """Copy the journal to a new file, between commits; acknowledged by `BackedUp` when it is done."""

    to: str


class Close(msgspec.Struct, array_like=True, tag="close"):
    """Save a snapshot, close the database and end."""


Request = Write | Read | ReadTables | ReadStates | ReadEntries | ReadStateKeys | Tick | Backup | Close


class Done(msgspec.Struct, array_like=True):
    """An op's outcome: the offset of its first stored record, and the records that were not simply stored."""

    first: int
    others: list[tuple[int, Placed]]
    stale: str = ""
    """Why it was refused, if it was."""
    full: bool = False
    """There was no room for it; others in the group may have found some in the reserve."""


class Written(msgspec.Struct, array_like=True, tag="written"):
    """The transaction is durable.

    Nearly always all records are stored as they came: then `done` is empty, and `first` the offset of the first one.
    """

    done: list[Done]
    first: int = -1


class Batches(msgspec.Struct, array_like=True, tag="batches"):
    """Stored batches as they are on disk: offset of the first record, records."""

    rows: list[tuple[int, bytes]]


class TablesReply(msgspec.Struct, array_like=True, tag="tables-reply"):
    """The projections."""

    tables: Tables


class StatesReply(msgspec.Struct, array_like=True, tag="states-reply"):
    """What a flow keeps, by partition key."""

    states: dict[str, State]


class StateKeysReply(msgspec.Struct, array_like=True, tag="state-keys-reply"):
    """Partition keys."""

    keys: list[str]


class Ticked(msgspec.Struct, array_like=True, tag="ticked"):
    """How full the journal is."""

    usage: Usage


class Announce(msgspec.Struct, array_like=True, tag="announce"):
    """Records that the writer itself has stored. Not an answer: it may come before any other."""

    first: int
    records: list[Record]


class BackedUp(msgspec.Struct, array_like=True, tag="backed-up"):
    """A backup has been made and verified, or, with an `error`, has not. Not an answer either."""

    records: int
    bytes: int
    error: str = ""
    hint: str = ""


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """The request had no effect."""

    message: str
    hint: str
    full: bool


Reply = Written | Batches | TablesReply | StatesReply | StateKeysReply | Ticked | Announce | BackedUp | Failed


def frame(body: bytes) -> bytes:
    """A frame: the body's length in four bytes, little-endian, and the body."""
    return LENGTH.pack(len(body)) + body
