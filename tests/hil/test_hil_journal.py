"""Reading a board's journal, whatever state a loss of power left it in, and writing a board's file system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hil.board import BoardConfig, BoardError
from hil.flash import write_flash
from hil.journal import CommandSeen, read_journal

BOOT = "f00d000102030405"
ID = "00" * 16
LINES = [
    {"event": "boot", "boot": BOOT, "t": 1},
    {"event": "published", "boot": BOOT, "seq": 0, "t": 2, "again": False},
    {"event": "published", "boot": BOOT, "seq": 1, "t": 2, "again": False},
    {"event": "published", "boot": BOOT, "seq": 0, "t": 3, "again": True},
    {"event": "acknowledged", "boot": BOOT, "seq": 0, "us": 900},
    {"event": "acknowledged", "boot": BOOT, "seq": 1, "us": None},
    {"event": "command", "id": ID, "name": "fan", "us": 70, "repeat": False, "cause": [BOOT, 1]},
    {"event": "command", "id": ID, "name": "fan", "us": 80, "repeat": True, "cause": None},
]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_whole_journal(tmp_path: Path) -> None:
    text = "\n" + "".join(json.dumps(line) + "\n" for line in LINES)
    journal = read_journal(write(tmp_path / "j", text), "b1")
    assert journal.starts == 1
    assert journal.published == journal.acknowledged == {f"b1/{BOOT}/0", f"b1/{BOOT}/1"}
    assert journal.republished == 1
    assert journal.ack_us == [900]
    assert journal.command_us == [70]
    assert journal.commands == [
        CommandSeen(ID, "fan", f"b1/{BOOT}/1", 70, False),
        CommandSeen(ID, "fan", None, 80, True),
    ]


def test_a_journal_cut_off_anywhere_gives_what_stands_in_whole_lines(tmp_path: Path) -> None:
    text = "".join(json.dumps(line) + "\n" for line in LINES[:5])
    for end in range(len(text)):
        journal = read_journal(write(tmp_path / "j", text[:end] + "\n" + json.dumps(LINES[5]) + "\n"), "b1")
        assert f"b1/{BOOT}/1" in journal.acknowledged
        assert len(journal.ack_us) == (1 if end >= len(text) - 1 else 0)


def test_no_journal_yet_and_lines_of_something_else(tmp_path: Path) -> None:
    assert read_journal(tmp_path / "none", "b1").published == set()
    journal = read_journal(write(tmp_path / "j", '[1]\n"x"\n{"event": "published"}\n\xff\n'), "b1")
    assert journal.published == set()


def test_the_settings_file_is_what_the_firmware_reads_and_only_its_owner_can(tmp_path: Path) -> None:
    program = write(tmp_path / "blink.py", "print(1)\n")
    config = BoardConfig("b1", "secret", port=18, options={"queue": 5}, settings={"seed": 2})
    assert "secret" not in repr(config)
    root = tmp_path / "flash"
    for _ in range(2):
        write_flash(root, program, config)
    assert (root / "edge.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((root / "edge.json").read_text()) == {
        "device": "b1",
        "key": "secret",
        "host": "127.0.0.1",
        "port": 18,
        "queue": 5,
        "settings": {"journal": "/journal.jsonl", "seed": 2},
    }
    assert (root / "main.py").read_text() == "print(1)\n"
    assert (root / "lib" / "edge_device" / "core.py").is_file()


def test_what_the_board_wrote_stays_when_it_is_flashed_again(tmp_path: Path) -> None:
    program = write(tmp_path / "blink.py", "")
    write_flash(tmp_path / "flash", program, BoardConfig("b1", "k"))
    write(tmp_path / "flash" / "journal.jsonl", "{}\n")
    write_flash(tmp_path / "flash", program, BoardConfig("b1", "k"))
    assert (tmp_path / "flash" / "journal.jsonl").read_text() == "{}\n"


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="no program"):
        write_flash(tmp_path / "flash", tmp_path / "none", BoardConfig("b1", "k"))
