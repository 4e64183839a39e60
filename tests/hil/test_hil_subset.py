"""Taking a subset of the firmware: what is left out, what is put in, and that the micro:bit's fits where it has to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hil.board import BoardError, firmware_folder
from hil.inline import inline
from hil.microbit import PLACE, image
from hil.qemu_board import program
from hil.subset import SubsetError, take

LINK = '''
"""A link."""
import struct
from binascii import crc32
from edge_device import tool
from micropython import const

try:
    from hashlib import sha256
except ImportError:
    sha256 = None

_STEP = const(3)
_REASONS = {1: "one"}


def never():
    return 1


class Link:
    """A machine."""

    def __init__(self, name):
        """Begin."""
        self._name = name
        self.count = 0

    def step(self, number):
        """Go on."""
        if sha256:
            return never()
        why = _REASONS.get(number, "none")
        self._advance(number, why)
        return tool.double(self.count) + crc32(b"")

    def _advance(self, number, why):
        self.count += number * _STEP

    def unused(self):
        raise ValueError("nobody calls this")
'''
TOOL = """
def double(value):
    if value < 0:
        raise ValueError("it is below zero")
    return 2 * value
"""
PROGRAM = """
from edge_device.link import Link


def crc32(data):
    return 1000


link = Link("b1")
result = [link.step(2), link.step(1)]
print(result)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "link.py").write_text(LINK)
    (tmp_path / "tool.py").write_text(TOOL)
    return tmp_path


@pytest.mark.parametrize("inlined", [(), ("_advance",)])
def test_a_subset_does_what_the_whole_does(
    package: Path, inlined: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    subset = take(package, PROGRAM, {"sha256": None}, inlined)
    names: dict[str, object] = {}
    for piece in subset.pieces:
        exec(piece, names)
    assert capsys.readouterr().out == "[1012, 1018]\n"
    assert subset.taken == ("link.Link.__init__", "link.Link._advance", "link.Link.step", "tool.double")
    whole = "\n".join(subset.pieces)
    for gone in ("sha256", "never", "unused", "_STEP", "_REASONS", "why", "below zero", "machine", "_advance", "self"):
        assert gone not in whole


def test_what_cannot_be_taken_is_named(package: Path) -> None:
    with pytest.raises(SubsetError, match=r"no .Lunk. in edge_device/link\.py"):
        take(package, "from edge_device.link import Lunk\nLunk()")
    with pytest.raises(SubsetError, match=r"there is no .*nowhere\.py"):
        take(package, "from edge_device.nowhere import x\nx()")
    (package / "other.py").write_text("def double(a):\n return a")
    with pytest.raises(SubsetError, match=r".double. is a name of other\.py and of tool\.py"):
        take(
            package,
            "from edge_device.other import double\nfrom edge_device.link import Link\ndouble(Link('a').step(1))",
        )


def test_a_return_in_the_middle_is_no_place_to_go_on_from() -> None:
    nodes = ast.parse("def f(a):\n if a:\n  return 1\n return 2\ndef g():\n x = f(1)\n return x").body
    with pytest.raises(ValueError, match="'f' cannot be put where it is called"):
        inline(nodes, "f")


def test_the_link_of_the_microbit_is_the_firmwares_own() -> None:
    subset = program("micro-1", 1000)
    assert {"serial.Session.receive", "serial.Session.tick", "serial.frame", "wire.encode_events"} <= set(subset.taken)
    defined = {
        node.name
        for module in ("serial", "wire", "cbor")
        for node in ast.walk(ast.parse((firmware_folder() / "edge_device" / f"{module}.py").read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name.rpartition(".")[2] for name in subset.taken} <= defined


def test_an_image_ends_with_the_program_and_a_record_that_says_so() -> None:
    whole = image(":100000000001020304050607080910111213141550\n:0400000500000001F6\n:00000001FF\n", ["x=1", "x"])
    lines = whole.splitlines()
    assert lines[0].startswith(":10000000")
    assert lines[1] == ":020000040003F7"
    assert lines[2].startswith(f":10{PLACE & 0xFFFF:04X}00" + b"MP".hex().upper())
    assert lines[-1] == ":00000001FF"
    assert all(sum(bytes.fromhex(line[1:])) & 255 == 0 for line in lines[1:])
    assert b"\x04\x00x=1\n\xff\xff" in b"".join(bytes.fromhex(line[9:-2]) for line in lines[2:-1])


def test_a_program_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BoardError, match="room for 8192"):
        image(":00000001FF\n", ["#" * 9000, "x"])
