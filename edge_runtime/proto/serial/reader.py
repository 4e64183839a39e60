"""Cuts a line into pieces between zeros, and tells text that is no frame from what has been damaged."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.proto.serial.frames import MAX_WIRE

MAX_TEXT = 1024
"""Bytes of text in one piece; a line that never ends is cut into these."""
_CONTROL = bytes(set(range(32)) - {7, 8, 9, 10, 13, 27}) + b"\x7f"


class Reader:
    """Holds at most MAX_TEXT bytes, whatever comes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipping = False
        self.overlong = 0
        """Pieces given up for their length."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that end in `data`; none is empty."""
        *ended, rest = data.split(b"\0")
        for part in ended:
            self._take(part)
            if self._buffer and not self._skipping:
                yield bytes(self._buffer)
            self._buffer.clear()
            self._skipping = False
        self._take(rest)
        if len(self._buffer) > MAX_WIRE and is_text(self._buffer):
            yield bytes(self._buffer)
            self._buffer.clear()

    def quiet(self) -> bytes:
        """Nothing more comes for now: the text that has come, if it is some."""
        text = bytes(self._buffer) if is_text(self._buffer) else b""
        # Half a frame that nothing follows is given up: its end, much later, would make an old frame whole.
        self._skipping = not text
        self._buffer.clear()
        return text

    @property
    def waits(self) -> bool:
        """Whether something has begun and not ended."""
        return bool(self._buffer)

    def _take(self, part: bytes) -> None:
        if self._skipping:
            return
        room = MAX_TEXT - len(self._buffer)
        if len(part) > room:
            self._skipping = True
            self.overlong += 1
            self._buffer.clear()
        else:
            self._buffer += part


def is_text(piece: bytes | bytearray) -> bool:
    """Whether a person could read it: at least four bytes of UTF-8 without control characters."""
    if len(piece) < 4 or len(piece.translate(None, _CONTROL)) != len(piece):
        return False
    try:
        piece.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(piece) - 3  # a character may be cut at the end
    return True
