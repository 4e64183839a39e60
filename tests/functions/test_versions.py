"""The store of versions: written whole, checked when read, pruned."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.functions import versions as versions_module
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.versions import KEPT, AppFiles, Versions
from edge_runtime.manifest import Manifest, OnEvent

MANIFEST = Manifest("a", [OnEvent("f", "climate")])


def content(number: int = 0) -> AppFiles:
    return AppFiles({"main.py": f"x = {number}".encode(), "lib/util.py": b"", "data/t.bin": b"\xff"}, Limits(), "guest")


def written(folder: Path, number: int = 0, stored: int = 0) -> str:
    app = content(number)
    Versions(folder).write(app, MANIFEST, stored * 1_000_000)
    return app.version


TRIED = AppFiles({"main.py": b"a", "b.py": b"b", "c.txt": b"c"}, Limits(), "guest")
TRIED_MANIFEST = Manifest("tried", [OnEvent("f", "climate")])


def test_a_folder_comes_back_as_it_went(tmp_path: Path) -> None:
    version = written(tmp_path)
    assert Versions(tmp_path).read("a", version) == (content(), MANIFEST)
    assert (tmp_path / "a" / version / "files/lib/util.py").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == [version], "and no temporary folder is left"


def test_every_byte_and_name_is_part_of_the_version() -> None:
    app = content()
    moved = {("lib/utils.py" if name == "lib/util.py" else name): data for name, data in app.files.items()}
    others = [
        content(1),
        AppFiles(moved, app.limits, app.guest),
        AppFiles({**app.files, "main.py ": b""}, app.limits, app.guest),
        AppFiles(app.files, Limits(time=1_000), app.guest),
        AppFiles(app.files, app.limits, "other"),
    ]
    assert len({app.version, *(other.version for other in others)}) == 6
    assert (app.entry, app.language) == ("main.py", "python")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("files/main.py", b"x = 2"),
        ("files/data/t.bin", b""),
        ("version.json", b"{}"),
        ("version.json", b"\xff"),
    ],
)
def test_a_version_that_was_touched_is_not_run(tmp_path: Path, file: str, change: bytes) -> None:
    version = written(tmp_path)
    (tmp_path / "a" / version / file).write_bytes(change)
    with pytest.raises(EdgeError, match=r"cannot be read|not those that were deployed"):
        Versions(tmp_path).read("a", version)


def test_a_description_that_names_files_elsewhere_reads_none_of_them(tmp_path: Path) -> None:
    version = written(tmp_path)
    path = tmp_path / "a" / version / "version.json"
    path.write_text(path.read_text().replace("lib/util.py", "../version.json"))
    with pytest.raises(EdgeError, match="outside the app"):
        Versions(tmp_path).read("a", version)


@pytest.mark.parametrize(("app", "version"), [("../a", None), (".", None), ("b", None), ("a", "../../x"), ("", None)])
def test_only_versions_are_found(tmp_path: Path, app: str, version: str | None) -> None:
    there = written(tmp_path)
    with pytest.raises(NotFound):
        Versions(tmp_path).read(app, version or there)
    assert app == "a" or Versions(tmp_path).stored(app) == []


def test_a_version_of_an_earlier_gateway_is_still_itself(tmp_path: Path) -> None:
    """It lay beside its description, and it had fewer limits: those that came later do not change its name."""
    app = AppFiles({"a.py": b"x = 1"}, Limits(), "guest")
    fewer = {name: getattr(app.limits, name) for name in ("time", "load_time", "memory", "output", "lines", "effects")}
    version = "f86e54c8c51b"
    folder = tmp_path / "a" / version
    folder.mkdir(parents=True)
    (folder / "a.py").write_bytes(b"x = 1")
    meta = {"manifest": {"app": "a", "triggers": []}, "files": ["a.py"], "limits": fewer, "guest": "old"}
    (folder / "version.json").write_text(json.dumps(meta))
    found, _ = Versions(tmp_path).read("a", version)
    assert found == AppFiles({"a.py": b"x = 1"}, Limits(), "old")


def test_the_newest_versions_are_kept_and_those_in_use(tmp_path: Path) -> None:
    made = [written(tmp_path, number, stored=1_000 + number) for number in range(KEPT + 4)]
    versions = Versions(tmp_path)
    assert [item.version for item in versions.stored("a")] == made[::-1]
    assert versions.stored("a")[0].stored == (1_000 + KEPT + 3) * 1_000_000
    (tmp_path / "a" / ".0123456789ab.77").mkdir()  # a gateway was ended while it wrote
    versions.prune("a", keep={made[1]})
    assert [item.version for item in versions.stored("a")] == [*made[:3:-1], made[1]]
    assert not list((tmp_path / "a").glob(".*"))
    versions.write(content(4), MANIFEST)  # deployed again
    assert versions.stored("a")[0].version == made[4]


def test_deploying_a_damaged_version_again_mends_it(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.write(TRIED, TRIED_MANIFEST)
    (tmp_path / "tried" / TRIED.version / "files" / "b.py").write_bytes(b"")
    with pytest.raises(EdgeError, match="not those that were deployed"):
        versions.read("tried", TRIED.version)
    versions.write(TRIED, TRIED_MANIFEST)
    assert versions.read("tried", TRIED.version)[0] == TRIED


def test_writers_and_pruning_at_the_same_time_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run stores beside a deploy of the same app, and a deploy prunes."""
    versions = Versions(tmp_path)
    begun, waiting, errors = threading.Event(), threading.Event(), list[Exception]()
    write = versions_module._write

    def slow(path: Path, content: bytes) -> None:
        write(path, content)
        begun.set()
        waiting.wait(10)
        others[0].join(0.05)  # if they can get in, they do so here

    def work(what: Callable[[], object]) -> None:
        try:
            what()
        except Exception as error:
            errors.append(error)

    monkeypatch.setattr(versions_module, "_write", slow)
    first = threading.Thread(target=work, args=[lambda: versions.write(TRIED, TRIED_MANIFEST)])
    others = [
        threading.Thread(target=work, args=[lambda: versions.prune("tried", set())]),
        threading.Thread(target=work, args=[lambda: versions.write(TRIED, TRIED_MANIFEST)]),
    ]
    first.start()
    begun.wait(10)
    for thread in others:
        thread.start()
    waiting.set()
    for thread in (first, *others):
        thread.join(10)
    assert errors == []
    assert versions.read("tried", TRIED.version)[0] == TRIED


def test_what_an_interrupted_gateway_left_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / "tried" / f".{TRIED.version}.new" / "files"
    left.mkdir(parents=True)
    (left / "b.py").write_bytes(b"half")
    versions = Versions(tmp_path)
    versions.write(TRIED, TRIED_MANIFEST)
    assert versions.read("tried", TRIED.version)[0] == TRIED
