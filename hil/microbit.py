"""The image of a micro:bit (nRF51, 16 KB of RAM): MicroPython, and a program with the subset of the firmware it needs.

What is appended at 0x3E000 runs after a start: `MP`, its length (16 bits), and its source; there are 8 KB. The compiler
takes the whole at once, for which memory suffices up to some 2 KB. So there stands only a loader, which reads the
pieces of the subset from the flash behind it and compiles one after the other.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from hil.board import BoardError

FIRMWARE = Path("/usr/share/firmware-microbit-micropython/firmware.hex")
"""Where Debian's package of that name puts MicroPython."""
PLACE = 0x3E000
ROOM = 0x2000
INLINED = (
    "_handshake",
    "_message_in",
    "_fail",
    "_uint",
    "_decode_simple",
    "decode",
    "encode_events",
    "has_room",
    "decode_command",
    "publish",
)
"""The stack has room for six calls inside each other, and a function that is called at one place takes memory there."""


def known(program: str, device: str) -> dict[str, object]:
    """What is so on this board and need not be computed, by name, attribute or expression of the firmware.

    `program` is the text of its program, whose constants stand at the top.
    """
    given = {
        target.id: node.value.value
        for node in ast.parse(program).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {
        "sha256": None,
        "._digest": None,
        "epoch": None,  # there is no clock
        "sent is not None": True,
        "result": None,
        "len(readings) == 1": True,
        ".twin": False,
        ".ota": False,
        "self.twin": False,
        ".failure": "",  # there is nobody to whom to say why a session ended
        ".refused": False,
        ".damaged": 0,
        "._oversized": 0,
        "._device": device,
        "._key": b"",
        "._tree": len(f"/devices/{device}/"),
        "._keepalive": given["KEEPALIVE"],
        "._patience": cast(int, given["PATIENCE"]) * 1000,
        "._max_packet": given["PACKET"],
        "._ring": given["RING"],
        "_LARGEST": given["RING"],  # what the gateway sends fits the ring
    }


_LOADER = """\
import machine,gc
from micropython import *
kbd_intr(-1)
opt_level(3)
_p={start}
while 1:
 _n=machine.mem16[_p]
 if _n>9999:break
 _p+=2
 exec(bytes(machine.mem8[_p+_i]for _i in range(_n)))
 _p+=_n
 gc.collect()
{last}
"""
"""With kbd_intr a 3 on the line is a byte like others. What the program does is called from here: inside
`exec` it would find less of the stack."""


def image(firmware: str, pieces: Sequence[str]) -> str:
    """MicroPython's image (Intel HEX) with a program in pieces. Raises BoardError if that does not fit."""
    *pieces, last = pieces
    size = len(_LOADER.format(start=PLACE, last=last))
    size += size % 2
    loader = _LOADER.format(start=PLACE + 4 + size, last=last).encode().ljust(size, b"\n")
    program = b"MP" + struct.pack("<H", size) + loader
    for piece in pieces:
        source = piece.encode()
        source += b"\n" * (len(source) % 2)  # this processor reads two bytes at even addresses only
        program += struct.pack("<H", len(source)) + source
    program += b"\xff\xff"
    if len(program) > ROOM:
        raise BoardError(
            f"the program takes {len(program)} bytes of flash, and there is room for {ROOM}",
            hint="Import less from edge_device, or shorten the program.",
        )
    return "".join([*_records(firmware), *_hex(PLACE, program), ":00000001FF\n"])


def _records(firmware: str) -> Iterator[str]:
    """The lines of an image without its end and its start address."""
    for line in firmware.splitlines():
        if line[7:9] not in ("01", "03", "05"):
            yield line + "\n"


def _hex(place: int, data: bytes) -> Iterator[str]:
    yield _record(0, 4, struct.pack(">H", place >> 16))
    for at in range(0, len(data), 16):
        yield _record(place + at & 0xFFFF, 0, data[at : at + 16])


def _record(address: int, kind: int, data: bytes) -> str:
    line = struct.pack(">BHB", len(data), address, kind) + data
    return f":{line.hex().upper()}{-sum(line) & 255:02X}\n"
