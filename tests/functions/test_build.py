"""The guest's cache: built once, whole, and only ever read from files of our own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.clock import SystemClock
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.sandbox import build, cache, compile, engine
from edge_runtime.functions.sandbox.errors import GuestError


def quiet(_what: str, _fraction: float) -> None:
    pass


def test_the_cached_guest_is_used_again(guest: tuple[Path, Path]) -> None:
    folder = cache.default_folder()
    told: list[str] = []
    before = [path.stat().st_mtime_ns for path in guest]
    wasm = build.built(folder, lambda what, _: told.append(what))
    assert compile.compiled(wasm, build.guest_version(), folder, lambda what, _: told.append(what)) == guest[1]
    assert [path.stat().st_mtime_ns for path in guest] == before
    assert told == []
    assert guest[1].stat().st_mode & 0o077 == 0


def test_a_shipped_guest_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "guest.wasm"
    ours = build.guest_version()
    shipped.write_bytes(b"shipped")
    monkeypatch.setattr(build, "SHIPPED", shipped)
    assert build.built(tmp_path / "cache", quiet) == shipped
    assert build.guest_version() != ours


def test_without_the_builder_the_person_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(GuestError) as raised:
        build.built(tmp_path / "cache", quiet)
    assert raised.value.hint == "pip install 'edge-runtime[guest]'"


def test_progress_is_told_and_ends_at_one() -> None:
    told: list[tuple[str, float]] = []
    command = [sys.executable, "-c", "import time; time.sleep(0.5)"]
    build.run_watched(command, what="waiting", expected=1.0, progress=lambda *said: told.append(said))
    fractions = [fraction for _, fraction in told]
    assert len(fractions) >= 3
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_build_that_fails_says_why() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such module')"]
    with pytest.raises(GuestError, match=r"building failed \(exit status 1\): no such module"):
        build.run_watched(command, what="building", expected=1.0, progress=quiet)


class _Enough(Exception):
    pass


def test_a_build_that_is_stopped_kills_its_process(tmp_path: Path) -> None:
    def stop(_what: str, _fraction: float) -> None:
        if (tmp_path / "pid").exists():
            raise _Enough

    with pytest.raises(_Enough):
        build.run_watched(_sleeper(tmp_path / "pid"), what="building", expected=1.0, progress=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def _sleeper(pid: Path) -> list[str]:
    """A command that writes its process id, and takes for ever."""
    script = f"import os, time; open({str(pid) + '.new'!r}, 'w').write(str(os.getpid()))"
    return [sys.executable, "-c", f"{script}; os.rename({str(pid) + '.new'!r}, {str(pid)!r}); time.sleep(3600)"]


async def _cancelled_start(folder: Path, under_way: Callable[[], bool]) -> None:
    platform = FunctionPlatform(folder / "apps", SystemClock(), cache_folder=folder / "cache")
    starting = asyncio.create_task(platform.start())
    while not under_way():
        await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(starting), 10)
    await platform.stop()


async def test_a_start_that_is_cancelled_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"

    def built(folder: Path, progress: cache.Progress) -> Path:
        with cache.locked(cache.prepare(folder), progress), cache.written(folder / "guest.wasm"):
            build.run_watched(_sleeper(pid), what="building", expected=1.0, progress=progress)
        raise AssertionError("it was not stopped")

    monkeypatch.setattr(build, "built", built)
    await _cancelled_start(tmp_path, pid.exists)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["lock"]
    with cache.locked(tmp_path / "cache", _not_waiting):
        pass


def _not_waiting(_what: str, _fraction: float) -> None:
    raise AssertionError("the lock is still held")


async def test_a_start_that_is_cancelled_does_not_wait_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()

    def built(folder: Path, progress: cache.Progress) -> Path:
        waiting.set()
        with cache.locked(folder, progress):
            raise AssertionError("it is held")

    monkeypatch.setattr(build, "built", built)
    with cache.locked(cache.prepare(tmp_path / "cache"), quiet):
        await _cancelled_start(tmp_path, waiting.is_set)


def test_a_module_that_cannot_be_compiled_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "broken.wasm"
    broken.write_bytes(b"\0asm broken")
    folder = tmp_path / "cache"
    with pytest.raises(GuestError, match="compiling the sandbox guest failed"):
        compile.compiled(broken, "broken", folder, quiet)
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_files_that_others_could_write_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "guest.cwasm"
    path.write_bytes(b"code")
    path.chmod(0o600)
    os.close(cache.open_own(path))
    path.chmod(0o620)
    assert not cache.is_own(path)
    path.chmod(0o600)
    link = tmp_path / "link.cwasm"
    link.symlink_to(path)
    assert not cache.is_own(link)
    assert not cache.is_own(tmp_path)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        with pytest.raises(cache.CacheError, match="owner 12345"):
            cache.open_own(path)


def test_a_folder_open_to_others_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    assert cache.prepare(folder).stat().st_mode & 0o777 == 0o700
    if os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
        with pytest.raises(cache.CacheError, match="belongs to another user"):
            cache.prepare(folder)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write_half() -> None:
        with cache.written(path) as temporary:
            temporary.write_text("half")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_half()
    assert list(tmp_path.iterdir()) == []
    with cache.written(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_only_guests_that_nobody_used_for_long_are_removed(tmp_path: Path) -> None:
    for name, used in (("guest-old", 0), ("guest-new", 90 * 86_400), ("guest-kept", 0), ("other", 0)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (used, used))
    cache.prune(tmp_path, tmp_path / "guest-kept", now=100 * 86_400)
    assert {path.name for path in tmp_path.iterdir()} == {"guest-new", "guest-kept", "other"}


def _hold(folder: Path, held: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    with cache.locked(folder, quiet):
        held.set()
        release.wait()


def test_two_processes_take_turns(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, release))
    other.start()
    held.wait()
    waited = threading.Event()

    def progress(what: str, _fraction: float) -> None:
        assert "another process" in what
        waited.set()
        release.set()

    with cache.locked(tmp_path, progress):
        assert waited.is_set()
    other.join()


def test_the_fingerprint_names_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine.fingerprint()
    assert before == engine.fingerprint()
    monkeypatch.setattr(engine, "_cpu_features", lambda: "another processor")
    assert engine.fingerprint() != before
