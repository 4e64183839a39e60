"""The real functions-framework as a child process: it starts, answers, is restarted, and says why it cannot."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from cloud_bridge.local_cloud import LocalCloud, received
from cloud_bridge.targets.http_cloudevents import HttpCloudEventsTarget
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError
from edge_runtime.events import Event
from edge_runtime.flows.ports import Unavailable

CLOUD = Path(__file__).parents[2] / "examples" / "greenhouse" / "cloud" / "main.py"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_it_takes_events_and_comes_back_on_the_same_port(tmp_path: Path) -> None:
    journal = tmp_path / "received.jsonl"
    assert received(journal) == []
    cloud = LocalCloud(CLOUD, "on_event", tmp_path / "cloud", env={"CLOUD_JOURNAL": str(journal)})
    async with cloud:
        url, pid = cloud.url, cloud.pid
        await cloud.start()  # already running: nothing happens
        assert cloud.pid == pid
        target = HttpCloudEventsTarget(url, "//edge/north", 5_000_000, SystemClock())
        sent = [Event("gh-1", b"\x01" * 8, seq, "climate", seq, 0, None) for seq in range(3)]
        await target.send(sent[0], {"temperature": 31.5})
        await cloud.kill()
        assert pid is not None
        assert not alive(pid)
        with pytest.raises(Unavailable):
            await target.send(sent[1], {})
        await cloud.start()
        assert cloud.url == url
        await target.send(sent[1], {})
        await target.send(sent[1], {})
        pid = cloud.pid
        await target.aclose()
    assert pid is not None
    assert not alive(pid)
    assert cloud.pid is None
    assert received(journal) == [sent[0].outside_id, sent[1].outside_id, sent[1].outside_id]
    assert '"data": {"temperature": 31.5}' in journal.read_text()
    await cloud.stop()  # stopping what has stopped is fine


async def test_a_function_that_raises_is_tried_again_later(tmp_path: Path) -> None:
    source = tmp_path / "main.py"
    source.write_text("def on_event(event):\n    raise RuntimeError('out of quota')\n")
    async with LocalCloud(source, "on_event", tmp_path) as cloud:
        target = HttpCloudEventsTarget(cloud.url, "//edge/north", 5_000_000, SystemClock())
        with pytest.raises(Unavailable, match="answered 500"):
            await target.send(Event("gh-1", b"\x01" * 8, 1, "climate", 0, 0, None), 1)
        await target.aclose()
    assert "out of quota" in cloud.log.read_text()


async def test_its_environment_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "42")
    source = tmp_path / "main.py"
    source.write_text("import os\nprint(sorted(os.environ), flush=True)\ndef on_event(event): pass\n")
    async with LocalCloud(source, "on_event", tmp_path, env={"MINE": "1"}) as cloud:
        said = cloud.log.read_text()
    assert "'MINE'" in said
    assert "GATEWAY_SECRET" not in said


async def test_a_function_that_cannot_be_loaded_is_reported_with_the_reason(tmp_path: Path) -> None:
    source = tmp_path / "main.py"
    source.write_text("def on_event(event):\n    retrun\n  oops\n")
    cloud = LocalCloud(source, "on_event", tmp_path)
    with pytest.raises(EdgeError, match="ended with status 1 while it started: IndentationError") as caught:
        await cloud.start()
    assert str(cloud.log) in caught.value.hint
    assert cloud.pid is None


async def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="There is no cloud function"):
        await LocalCloud(tmp_path / "main.py", "on_event", tmp_path).start()


async def test_without_the_runtime_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EdgeError, match="functions-framework, is not installed") as caught:
        await LocalCloud(CLOUD, "on_event", tmp_path).start()
    assert caught.value.hint == "pip install 'edge-runtime[clouds]'"


def test_a_line_that_is_still_being_written_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "j").write_text('{"id": "a/1"}\n{"id": "a/2"}\n{"id": "a/')
    assert received(tmp_path / "j") == ["a/1", "a/2"]
