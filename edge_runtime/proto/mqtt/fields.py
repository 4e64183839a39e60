"""The data representations of section 1.5, read one after the other from the body of a packet."""

from __future__ import annotations

from edge_runtime.proto.mqtt.violation import ProtocolViolation


def text(raw: bytes, what: str) -> str:
    """UTF-8 as the standard wants it: well formed, without surrogates and without U+0000."""
    try:
        value = raw.decode()
    except UnicodeDecodeError:
        raise ProtocolViolation(f"{what} is not well-formed UTF-8", "MQTT-1.5.3-1") from None
    if "\0" in value:
        raise ProtocolViolation(f"{what} contains U+0000", "MQTT-1.5.3-2")
    return value


class Fields:
    """A reader over the body of one packet. Each method names what it reads, for the message of a violation."""

    __slots__ = ("_body", "_position")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._body) - self._position

    def number(self, size: int, what: str) -> int:
        """An unsigned integer of `size` bytes."""
        return int.from_bytes(self._take(size, what))

    def binary(self, what: str) -> bytes:
        """Bytes after their 16-bit length."""
        return self._take(self.number(2, what), what)

    def text(self, what: str) -> str:
        """A UTF-8 string after its 16-bit length."""
        return text(self.binary(what), what)

    def variable(self, what: str) -> int:
        """A variable byte integer (MQTT 5.0 section 1.5.5)."""
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self._take(1, what)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                if shift and not byte:
                    raise ProtocolViolation(f"{what} has more bytes than it needs", "MQTT-1.5.5-1")
                return value
        raise ProtocolViolation(f"{what} has more than 4 bytes", "1.5.5")

    def part(self, size: int, what: str) -> Fields:
        """A reader over the next `size` bytes alone."""
        return Fields(self._take(size, what))

    def rest(self) -> bytes:
        """All that is left."""
        return self._take(self.left, "its end")

    def finish(self, packet: str) -> None:
        """Nothing may be left."""
        if self.left:
            raise ProtocolViolation(f"{packet} has {self.left} bytes too many")

    def _take(self, size: int, what: str) -> bytes:
        end = self._position + size
        if end > len(self._body):
            raise ProtocolViolation(f"a packet ends within {what}")
        value = self._body[self._position : end]
        self._position = end
        return value
