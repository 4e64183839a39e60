"""What the daemon and the journal writer say to each other: length-prefixed msgpack frames, answered in order."""

from __future__ import annotations

import struct

import msgspec

from edge_runtime.journal.interface import Placed, Tables
from edge_runtime.journal.records import Record

LENGTH = struct.Struct("<I")


class Op(msgspec.Struct, array_like=True):
    """Records to be stored together. With a `flow`, only if `generation` is still that flow's."""

    records: list[Record]
    flow: str = ""
    generation: int = 0


class Write(msgspec.Struct, array_like=True, tag="write"):
    """Do these in one transaction."""

    ops: list[Op]


class Read(msgspec.Struct, array_like=True, tag="read"):
    """Read on from an offset."""

    after: int
    limit: int


class ReadTables(msgspec.Struct, array_like=True, tag="tables"):
    """Hand over the projections."""


class Close(msgspec.Struct, array_like=True, tag="close"):
    """Save a snapshot, close the database and end."""


Request = Write | Read | ReadTables | Close


class Done(msgspec.Struct, array_like=True):
    """An op's outcome: the offset of its first stored record, and the records that were not simply stored."""

    first: int
    others: list[tuple[int, Placed]]
    stale: str = ""
    """Why it was refused, if it was."""


class Written(msgspec.Struct, array_like=True, tag="written"):
    """The transaction is durable."""

    done: list[Done]


class Batches(msgspec.Struct, array_like=True, tag="batches"):
    """Stored batches as they are on disk: offset of the first record, records."""

    rows: list[tuple[int, bytes]]


class TablesReply(msgspec.Struct, array_like=True, tag="tables-reply"):
    """The projections."""

    tables: Tables


class Failed(msgspec.Struct, array_like=True, tag="failed"):
    """The request had no effect."""

    message: str
    hint: str
    full: bool


Reply = Written | Batches | TablesReply | Failed


def frame(body: bytes) -> bytes:
    """A frame: the body's length in four bytes, little-endian, and the body."""
    return LENGTH.pack(len(body)) + body
