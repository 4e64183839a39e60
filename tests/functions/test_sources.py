"""What an app may be made of, on disk and in a request."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from edge_runtime.errors import DeployError
from edge_runtime.functions import sources
from edge_runtime.functions.sources import MAX_APP, MAX_FILE, MAX_FILES, check_files, entry_of, read_files


def test_a_file_is_an_app(tmp_path: Path) -> None:
    path = tmp_path / "greenhouse.py"
    path.write_bytes(b"x = 1\n")
    assert read_files(path) == {"greenhouse.py": b"x = 1\n"}


def test_a_folder_is_an_app_with_all_its_files_but_the_hidden_ones(tmp_path: Path) -> None:
    for name in (
        *("main.py", "lib/__init__.py", "lib/util.py", "data/table.json"),
        *("__pycache__/main.pyc", ".git/config", ".env", "env/pyvenv.cfg", "env/lib/x.py", "node_modules/x/y.js"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "alias.json").symlink_to("data/table.json")
    found = read_files(tmp_path)
    assert found == {
        "alias.json": b"data/table.json",
        "data/table.json": b"data/table.json",
        "lib/__init__.py": b"lib/__init__.py",
        "lib/util.py": b"lib/util.py",
        "main.py": b"main.py",
    }
    assert entry_of(found) == "main.py"


@pytest.mark.parametrize(
    ("files", "entry"),
    [
        (["greenhouse.py"], "greenhouse.py"),
        (["fan.js"], "fan.js"),
        (["fan.wasm"], "fan.wasm"),
        (["main.js", "lib.py"], "main.js"),
        (["main.wasm", "table.json"], "main.wasm"),
        (["other.py", "main.py"], "main.py"),
    ],
)
def test_the_entry_is_the_only_file_or_the_main_one(files: list[str], entry: str) -> None:
    assert entry_of(dict.fromkeys(files)) == entry


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "an app without files"),
        ({"a.txt": b""}, "not the name of an app's file"),
        ({"a b.py": b""}, "not the name of an app's file"),
        ({"machine.cwasm": b""}, "not the name of an app's file"),
        ({"lib/a.py": b""}, "not the name of an app's file"),
        ({".py": b""}, "hidden"),
        ({"a.py": b"", "b.py": b""}, "the folder has no main.py"),
        ({"lib/main.py": b"", "b.py": b""}, "the folder has no main.py"),
        ({"main.py": b"", "main.js": b""}, "two apps, main.py and main.js"),
        ({"../a.py": b""}, "lies outside the app"),
        ({"main.py": b"", "lib/../../../etc/cron.d/x": b""}, "lies outside the app"),
        ({"/etc/a.py": b""}, "absolute path"),
        ({"a\\b.py": b""}, "characters that no path should have"),
        ({"a\0b.py": b""}, "characters that no path should have"),
        ({"a\nb.py": b""}, r"a\\nb.py"),
        ({"a\ud800.py": b""}, "characters that no path should have"),
        ({"": b""}, "characters that no path should have"),
        ({"main.py": b"", "a//b.py": b""}, "empty or hidden"),
        ({"main.py": b"", "a/": b""}, "empty or hidden"),
        ({"main.py": b"", "./b.py": b""}, "empty or hidden"),
        ({"main.py": b"", "lib/.packages/b.py": b""}, "empty or hidden"),
        ({"main.py": b"", "a/" * 10 + "b.py": b""}, "deeper than 10"),
        ({"main.py": b"", "ü" * 51: b""}, "longer than 100 bytes"),
        ({"main.py": b"", "a": b"", "a/b.py": b""}, "a file of the app and a folder of it"),
        ({"a.py": b"x = 1\n\xff"}, "a.py, line 2: not UTF-8"),
        ({"main.py": b"", "lib/b.py": b"\n\n\xff"}, "lib/b.py, line 3: not UTF-8"),
        ({"a.py": b"#" * (MAX_FILE + 1)}, "a.py is larger than 1024 KiB"),
        ({"a.wasm": bytes(MAX_APP + 1)}, "a.wasm is larger than 8 MiB"),
        ({"main.py": b"#", "a": bytes(MAX_APP)}, "the app is larger than 8 MiB"),
        ({f"f{n}.py": b"" for n in range(MAX_FILES + 1)}, "more than 500 files"),
        (
            {"main.py": b""} | {f".packages/p{n}.py": b"" for n in range(MAX_FILES)},
            "more than 500 files, 500 of them in packages",
        ),
    ],
)
def test_files_that_cannot_be_an_app_are_refused(files: dict[str, bytes], says: str) -> None:
    with pytest.raises(DeployError, match=says):
        check_files(files)


def _in_no_time(source: Path, says: str) -> None:
    started = time.process_time()
    with pytest.raises(DeployError, match=says):
        read_files(source)
    assert time.process_time() - started < 1


def test_escape_by_a_gigabyte_that_is_not_read(tmp_path: Path) -> None:
    for name in ("main.py", "main.wasm"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 30)
        _in_no_time(tmp_path / name, f"{name} is larger than")
        _in_no_time(tmp_path, f"{name} is larger than")
        (tmp_path / name).unlink()


def test_escape_by_many_files_that_are_not_all_looked_at(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(MAX_FILES + 1):
        (tmp_path / f"many/{number}.py").touch()
    _in_no_time(tmp_path, "more than 500 files")


def test_nor_many_hidden_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_MAX_LOOKED_AT", 20)
    (tmp_path / "main.py").touch()
    for number in range(19):
        (tmp_path / f".{number}").touch()
    assert list(read_files(tmp_path)) == ["main.py"]
    (tmp_path / ".20").touch()
    _in_no_time(tmp_path, "more than 20 files")


def test_escape_by_what_is_not_a_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "main.py")
    _in_no_time(tmp_path / "main.py", "main.py is not a plain file")
    _in_no_time(tmp_path, "main.py is not a plain file")
    _in_no_time(Path("/dev/zero"), "zero is not a plain file")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("/etc/hostname", "outside"),
        ("../outside.json", "outside"),
        ("nowhere", "to nowhere"),
        ("link", "to nowhere"),
        ("data", "to a folder"),
        ("/dev", "to a folder"),
        (".", "to a folder"),
    ],
)
def test_escape_by_links_that_leave_the_folder(tmp_path: Path, target: str, says: str) -> None:
    app = tmp_path / "app"
    (app / "data").mkdir(parents=True)
    (tmp_path / "outside.json").touch()
    (app / "main.py").touch()
    (app / "link").symlink_to(target)
    with pytest.raises(DeployError, match=f"link is a link .*{says}"):
        read_files(app)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"gone.py cannot be read: No such file"):
        read_files(tmp_path / "gone.py")
    with pytest.raises(DeployError, match="holds no app"):
        read_files(tmp_path)
    with pytest.raises(DeployError, match="cannot be read: File name too long"):
        read_files(tmp_path / ("x" * 300))
    (tmp_path / "a\udcff.py").touch()
    with pytest.raises(DeployError, match=r"a\\udcff.py"):
        read_files(tmp_path)
