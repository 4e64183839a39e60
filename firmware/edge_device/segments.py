"""Records on flash: numbered files that are only ever appended to, and a CRC with every record.

A record is a mark (0xE5), the size of its body (2 bytes), the CRC-32 of the body (4 bytes, big-endian; it starts from
the size and the segment's number, so that what an older file left in a block is not taken for ours), and the body.
What is no such record is passed over, up to the next mark: a record that was cut off costs nothing but itself.
"""

import os
import struct
from binascii import crc32

from micropython import const

_MARK = const(0xE5)
HEAD = 7
"""Bytes that a record takes beside its body."""
LARGEST = 0xFFFF
_CHUNK = const(256)


def _check(segment, body):
    return crc32(body, (len(body) << 16 ^ segment) & 0xFFFFFFFF)


def append_record(out, segment, body):
    """Append a record to the bytearray `out`, which goes into that segment."""
    out.extend(struct.pack(">BHI", _MARK, len(body), _check(segment, body)))
    out.extend(body)


class Files:
    """The segments in a folder of the board's file system, each under its number.

    `append` is durable when it returns: littlefs and FAT write on closing. All raise OSError.
    """

    def __init__(self, path):
        self._path = path.rstrip("/") + "/"
        made = ""
        for part in path.strip("/").split("/"):
            made += ("/" if made or path.startswith("/") else "") + part
            try:
                os.mkdir(made)
            except OSError:  # it is there; or what comes next says what is wrong
                pass
        os.listdir(path)

    def _name(self, segment):
        return self._path + "{:08x}".format(segment)

    def list(self):
        """The numbers of all segments, in their order."""
        found = []
        for name in os.listdir(self._path[:-1] or "/"):
            try:
                number = int(name, 16)
            except ValueError:  # somebody else's file
                continue
            if name == "{:08x}".format(number):
                found.append(number)
        return sorted(found)

    def size(self, segment):
        """Bytes of one."""
        return os.stat(self._name(segment))[6]

    def open(self, segment):
        """One as a file to be read."""
        return open(self._name(segment), "rb")

    def append(self, segment, data):
        """Write to its end; it is made where it is not there."""
        with open(self._name(segment), "ab") as file:
            file.write(data)

    def remove(self, segment):
        """Take it away."""
        os.remove(self._name(segment))


class Reader:
    """Reads the records of a segment, from byte `end` of it on, up to byte `limit`; close it."""

    def __init__(self, files, segment, end, limit):
        self._segment = segment
        self._file = files.open(segment)
        self._buffer = b""
        self._left = limit - end
        self.end = end
        """Where the record ends that `next` has returned."""
        if end:
            self._file.seek(end)

    def close(self):
        """Give the file back."""
        self._file.close()

    def next(self):
        """The body of the next whole record, or None at the end."""
        while self._fill(HEAD):
            mark, size, check = struct.unpack(">BHI", self._buffer[:HEAD])
            if mark == _MARK and size and self._fill(HEAD + size):
                body = self._buffer[HEAD : HEAD + size]
                if _check(self._segment, body) == check:
                    self._pass(HEAD + size)
                    return body
            at = self._buffer.find(b"\xe5", 1)
            self._pass(at if at > 0 else len(self._buffer))
        return None

    def _fill(self, number):
        while len(self._buffer) < number:
            more = self._file.read(min(self._left, max(_CHUNK, number - len(self._buffer))))
            if not more:
                return False
            self._left -= len(more)
            self._buffer += more
        return True

    def _pass(self, number):
        self._buffer = self._buffer[number:]
        self.end += number
