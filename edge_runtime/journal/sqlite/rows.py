"""What stands in a row of `batch`: records in msgpack, under a checksum."""

from __future__ import annotations

import zlib

import msgspec

from edge_runtime.errors import StorageError
from edge_runtime.journal.records import Record

encode = msgspec.msgpack.Encoder().encode
decode_records = msgspec.msgpack.Decoder(list[Record]).decode


def verify(first: int, crc: int, blob: bytes) -> None:
    """Raise StorageError unless a batch is what was stored."""
    if zlib.crc32(blob) != crc:
        raise damaged(f"the batch at record {first} does not match its checksum")


def checked(first: int, crc: int, blob: bytes) -> list[Record]:
    """The records of a batch; raises StorageError if they are not what was stored."""
    verify(first, crc, blob)
    return decode_records(blob)


def damaged(what: str) -> StorageError:
    """The error for data that is not what was stored."""
    return StorageError(
        f"the journal is damaged: {what}",
        hint="Run `edge doctor` to see what can be saved, and check the disk or SD card.",
    )
