"""The boot loader in an ESP chip's ROM, without a chip: bytes in, bytes out, and a flash memory in between.

Written from Espressif's "Serial Protocol" (docs.espressif.com/projects/esptool, Advanced Topics). What it has no code
for, uploading and running a stub flasher, it refuses as a chip in secure mode does: esptool is told `--no-stub`.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

_INVALID, _FAILED, _BAD_SUM, _BAD_DEFLATE = 0x05, 0x06, 0x07, 0x0B
_END, _ESCAPE = 0xC0, 0xDB
_USER_COMMAND = 1 << 18
_READ_ID = 0x9F
_FLASH_ID = 0x164020
"""Manufacturer, type, and 2**0x16 bytes: 4 MiB."""
FLASH_BYTES = 4 << 20
MAX_FRAME = 64 << 10


@dataclass(frozen=True)
class Chip:
    """Where a chip keeps what esptool asks it for."""

    name: str
    magic: int
    """What stands at 0x40001000 of the ROM."""
    chip_id: int | None
    """What it answers to GET_SECURITY_INFO; None for one that does not know that command."""
    spi: int
    usr2: int
    w0: int
    mac: int
    boot: int
    """Where in the flash the ROM looks for what to start."""


CHIPS = {
    "esp32": Chip("esp32", 0x00F01D83, None, 0x3FF42000, 0x24, 0x80, 0x3FF5A004, 0x1000),
    "esp32s3": Chip("esp32s3", 0x9, 9, 0x60002000, 0x20, 0x58, 0x60007044, 0),
    "esp32c3": Chip("esp32c3", 0x6921506F, 5, 0x60002000, 0x20, 0x58, 0x60008844, 0),
}


class CablePulled(Exception):
    """The fault `cut_after` has come about."""


@dataclass
class RomFaults:
    """What goes wrong. Each happens once for as often as it says."""

    deaf: bool = False
    """It never answers: the chip is not in its boot loader, or does not get power."""
    spoil: int = 0
    """So many writes leave a wrong byte in the flash."""
    cut_after: int | None = None
    """The cable is pulled after so many bytes have been written."""


@dataclass
class _Writing:
    offset: int
    left: int
    """Packets to come."""
    number: int = 0
    inflate: Callable[[bytes], bytes] = field(default=bytes)


class RomLoader:
    """The loader of one chip; `flash` is its flash memory, `whole` whether all that was begun to be written is."""

    def __init__(self, chip: str = "esp32", faults: RomFaults | None = None) -> None:
        self.chip = CHIPS[chip]
        self.faults = faults or RomFaults()
        self.flash = bytearray(b"\xff" * FLASH_BYTES)
        self.whole = True
        self.written = 0
        """Bytes since the start."""
        mac = bytes.fromhex("240ac4000001")
        self._registers = {
            0x40001000: self.chip.magic,
            self.chip.mac: int.from_bytes(mac[2:], "big"),
            self.chip.mac + 4: int.from_bytes(mac[:2], "big"),
        }
        self._frame: bytearray | None = None
        self._escaped = False
        self._writing: _Writing | None = None

    @property
    def boots(self) -> bool:
        """Whether the flash holds something that the chip would start."""
        return self.whole and self.flash[self.chip.boot] == 0xE9

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the line; returns the answers to what is complete. Raises CablePulled."""
        if self.faults.deaf:
            return b""
        answers = b""
        for byte in data:
            if byte == _END:
                frame, self._frame, self._escaped = self._frame, bytearray(), False
                if frame:
                    answers += self._request(bytes(frame))
                    self._frame = None
            elif self._frame is not None and len(self._frame) < MAX_FRAME:
                if self._escaped:
                    byte = {0xDC: _END, 0xDD: _ESCAPE}.get(byte, byte)
                self._escaped = not self._escaped and byte == _ESCAPE
                if not self._escaped:
                    self._frame.append(byte)
        return answers

    def _request(self, frame: bytes) -> bytes:
        if len(frame) < 8 or frame[0] != 0:
            return b""
        _, command, size, checksum = struct.unpack_from("<BBHI", frame)
        body = frame[8:]
        if len(body) != size:
            return _answer(command, error=_INVALID)
        try:
            return self._do(command, body, checksum)
        except struct.error:
            return _answer(command, error=_INVALID)

    def _do(self, command: int, body: bytes, checksum: int) -> bytes:
        match command:
            case 0x08:  # SYNC: eight answers
                return _answer(command, 0x20120707) * 8
            case 0x0A:  # READ_REG
                return _answer(command, self._registers.get(struct.unpack("<I", body)[0], 0))
            case 0x09:  # WRITE_REG, one or several
                for address, value, _mask, _delay in struct.iter_unpack("<4I", body):
                    self._write_register(address, value)
                return _answer(command)
            case 0x02 | 0x10:  # FLASH_BEGIN, FLASH_DEFL_BEGIN: erases
                size, packets, _, offset = struct.unpack_from("<4I", body)
                inflate = zlib.decompressobj().decompress if command == 0x10 else bytes
                self._writing = _Writing(offset, packets, inflate=inflate)
                end = min(FLASH_BYTES, offset + -(-size // 4096) * 4096)
                self.flash[offset:end] = b"\xff" * (end - offset)
                self.whole = packets == 0
                return _answer(command)
            case 0x03 | 0x11:  # FLASH_DATA, FLASH_DEFL_DATA
                return _answer(command, error=self._store(body, checksum))
            case 0x13:  # SPI_FLASH_MD5
                address, size = struct.unpack_from("<2I", body)
                return _answer(command, data=hashlib.md5(self.flash[address : address + size]).hexdigest().encode())
            case 0x14 if self.chip.chip_id is not None:  # GET_SECURITY_INFO
                return _answer(command, data=struct.pack("<IB7xII", 0, 0, self.chip.chip_id, 0))
            case 0x04 | 0x12 | 0x0B | 0x0D | 0x0F:  # FLASH_END, SPI_SET_PARAMS, SPI_ATTACH, CHANGE_BAUDRATE
                return _answer(command)
        return _answer(command, error=_INVALID)

    def _write_register(self, address: int, value: int) -> None:
        self._registers[address] = value
        if address == self.chip.spi and value & _USER_COMMAND:
            asked = self._registers.get(self.chip.spi + self.chip.usr2, 0) & 0xFF
            self._registers[self.chip.spi + self.chip.w0] = _FLASH_ID if asked == _READ_ID else 0
            self._registers[address] = 0

    def _store(self, body: bytes, checksum: int) -> int:
        size, number = struct.unpack_from("<2I", body)
        data = body[16:]
        total = 0xEF
        for byte in data:
            total ^= byte
        writing = self._writing
        if writing is None or len(data) != size:
            return _FAILED
        if total != checksum & 0xFF:
            return _BAD_SUM
        if number != writing.number or not writing.left:
            return _FAILED
        try:
            data = writing.inflate(data)
        except zlib.error:
            return _BAD_DEFLATE
        if self.faults.cut_after is not None and self.written + len(data) > self.faults.cut_after:
            self.faults.cut_after = None
            raise CablePulled
        if self.faults.spoil and data:
            self.faults.spoil -= 1
            data = bytes([data[0] ^ 1]) + data[1:]
        end = min(FLASH_BYTES, writing.offset + len(data))
        self.flash[writing.offset : end] = data[: end - writing.offset]
        writing.offset += len(data)
        writing.number += 1
        writing.left -= 1
        self.written += len(data)
        self.whole = writing.left == 0
        return 0


def _answer(command: int, value: int = 0, data: bytes = b"", *, error: int = 0) -> bytes:
    """A response in SLIP. Chips since the ESP32 end it with four bytes of status, of which two are used."""
    body = data + bytes([1 if error else 0, error, 0, 0])
    frame = struct.pack("<BBHI", 1, command, len(body), value) + body
    return b"\xc0" + frame.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0"
