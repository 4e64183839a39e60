"""Taking a subset of the firmware: what is left out, what is put in, and that the micro:bit's fits where it has to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hil.board import BoardError, firmware_folder
from hil.inline import inline
from hil.microbit import PLACE, image
from hil.qemu_board import program
from hil.subset import Subset, SubsetError, take

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
    run(subset)
    assert capsys.readouterr().out == "[1012, 1018]\n"
    assert subset.taken == ("link.Link.__init__", "link.Link._advance", "link.Link.step", "tool.double")
    whole = "\n".join(subset.pieces)
    for gone in ("sha256", "never", "unused", "_STEP", "_REASONS", "why", "below zero", "machine", "_advance", "self"):
        assert gone not in whole


def run(subset: Subset) -> dict[str, object]:
    names: dict[str, object] = {}
    for piece in subset.pieces:
        exec(piece, names)
    return names


def test_what_is_computed_for_nobody_is_left_out_with_the_arguments_for_it(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "link.py").write_text(
        "class Link:\n"
        " def __init__(self, name, size=4):\n  self.name = name\n  self.lost = 0\n"
        " def fail(self, why, now):\n  self.lost += 1\n  self.why = why\n  self.end(now)\n"
        " def end(self, now):\n  print(now)\n"
        " def step(self, now, readings):\n"
        "  if len(readings) == 1:\n   self.fail('it said ' + self.name, now)\n"
        "  else:\n   self.fail('too many', readings[1])\n"
    )
    subset = take(
        package,
        "from edge_device.link import Link\ndef used_later(a, b):\n print(a)\n"
        "link = Link('b1', 7)\nlink.step(3, [1])\ncall = used_later\ncall(5, 6)",
        {".why": "", ".lost": 0, ".name": "b1", "len(readings) == 1": True},
    )
    run(subset)
    assert capsys.readouterr().out == "3\n5\n"
    whole = "\n".join(subset.pieces)
    for gone in ("it said", "too many", "b1", "len(", "7", "+="):
        assert gone not in whole
    assert "(5,6)" in whole, "a function that is not only called keeps its parameters"


def test_what_is_global_changes_and_an_error_has_a_name(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subset = take(
        package,
        "from edge_device.tool import double\nturn = 0\n"
        "def act(number):\n global turn\n try:\n  turn += number // turn\n"
        " except ZeroDivisionError as error:\n  turn = 3\n  print(type(error).__name__)\n"
        "act(double(3))\nact(double(3))\nprint(turn)",
    )
    run(subset)
    assert capsys.readouterr().out == "ZeroDivisionError\n5\n"
    assert "error" not in "".join(subset.pieces)


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


def test_a_name_of_an_error_and_a_global_statement_when_put_elsewhere() -> None:
    nodes = ast.parse("def f(a):\n try:\n  a()\n except ValueError as e:\n  print(e)\ndef g(e):\n f(e)\n e()").body
    inline(nodes, "f")
    assert "except ValueError as f_e" in ast.unparse(nodes[1])
    with pytest.raises(ValueError, match="it has a global statement"):
        inline(ast.parse("def f():\n global a\n a=1\ndef g():\n f()").body, "f")


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
