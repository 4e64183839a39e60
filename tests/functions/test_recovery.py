"""Executors that die, hang or lie, and what their work comes to."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import DeployError, EdgeError
from edge_runtime.flows.ports import Unavailable
from edge_runtime.functions import lane, remote
from edge_runtime.functions.engines import python_engine
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.sandbox import spawn
from edge_runtime.functions.sandbox.protocol import FrameTooLarge, Load, Run, Splitter, Unload, Unloaded, frame

from .conftest import Start, app, deploy, event, failed, ok

COUNT = '@app.route("climate", to="x")\ndef f(e): return e.seq\n'

BUSY = """
import time
@app.route("climate", to="x")
def f(event):
    end = time.monotonic() + 0.03
    while time.monotonic() < end: pass
    return event.seq
"""


def executor(platform: FunctionPlatform, index: int = 0) -> int:
    return platform.report().executors[index].pid


async def test_a_batch_survives_the_kill_of_its_executor(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app(BUSY))
    first = executor(platform)
    batch = asyncio.create_task(platform.invoke(ref("f"), [event(seq=n) for n in range(12)]))
    lane = platform._running.lanes[0]
    while not lane._calls > 4:  # load, and some pieces of the batch
        await asyncio.sleep(0)
    os.kill(first, signal.SIGKILL)
    assert [ok(o).value for o in await batch] == list(range(12)), "an innocent event is not blamed"
    assert executor(platform) != first
    assert platform.stats().restarts == 1


async def test_what_has_come_back_is_not_run_again_when_the_executor_dies_with_the_next(
    platform: FunctionPlatform,
) -> None:
    """Outcomes are looked at while the executor is at its next work already: its death must not cost them."""
    ref = await deploy(
        platform, app("calls = []\n" + COUNT.replace("return e.seq", "calls.append(e.seq); return len(calls)"))
    )
    call = remote.Remote.call
    runs = 0

    async def deadly(self: remote.Remote, request: object, patience: float) -> object:
        nonlocal runs
        if isinstance(request, Run):
            runs += 1
            if runs == 2:
                os.kill(self.pid, signal.SIGKILL)
        return await call(self, request, patience)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote.Remote, "call", deadly)
        both = [asyncio.ensure_future(platform.invoke(ref("f"), [event(seq=n)])) for n in range(2)]
        first, second = await asyncio.gather(*both)
    assert [ok(o).value for o in first] == [1]
    assert [ok(o).value for o in second] == [1], "in the new executor"
    assert (runs, platform.stats().restarts) == (3, 1)


async def test_callers_take_turns_and_each_gets_its_own_outcomes(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app(COUNT))
    batches = [[event(seq=100 * caller + n) for n in range(40)] for caller in range(6)]
    batches[3][0] = event(data=object(), seq=300)
    found = await asyncio.gather(*(platform.invoke(ref("f"), batch) for batch in batches))
    unreadable = failed(found[3][0])
    assert "cannot be handed to a function" in unreadable.detail
    for caller, outcomes in enumerate(found):
        assert [ok(o).value for o in outcomes[1:]] == [100 * caller + n for n in range(1, 40)]


async def test_what_is_loaded_is_loaded_again(start: Start) -> None:
    platform = await start()
    refs = [await deploy(platform, app(COUNT, name)) for name in ("a", "b", "c")]
    os.kill(executor(platform), signal.SIGKILL)
    for ref in refs:
        assert [ok(o).value for o in await platform.invoke(ref("f"), [event(seq=5)])] == [5]
    assert platform.stats().restarts == 1


async def test_the_other_executor_notices_nothing(start: Start) -> None:
    platform = await start(executors=2)
    one = await deploy(platform, app(COUNT, "one"))
    two = await deploy(platform, app(COUNT, "two"))
    os.kill(executor(platform, 0), signal.SIGKILL)
    second = executor(platform, 1)
    assert [ok(o).value for o in await platform.invoke(two("f"), [event()])] == [1]
    assert [ok(o).value for o in await platform.invoke(one("f"), [event()])] == [1]
    assert executor(platform, 1) == second


async def test_the_event_that_kills_its_executor_twice_is_blamed_and_no_other(platform: FunctionPlatform) -> None:
    """As a bug in the sandbox itself would look: each time event 3 is in it, the process dies."""
    ref = await deploy(platform, app(BUSY))
    lane = platform._running.lanes[0]
    call = remote.Remote.call

    async def deadly(self: remote.Remote, request: object, patience: float) -> object:
        if getattr(request, "function", "") == "f" and '/3",3,' in request.events:  # type: ignore[attr-defined]
            os.kill(self.pid, signal.SIGKILL)
        return await call(self, request, patience)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote.Remote, "call", deadly)
        outcomes = list(await platform.invoke(ref("f"), [event(seq=n) for n in range(6)]))
    blamed = failed(outcomes.pop(3))
    assert blamed.reason == "crash"
    assert "died twice on this event" in blamed.detail
    assert [ok(o).value for o in outcomes] == [0, 1, 2, 4, 5]
    assert lane.restarts == 2


async def test_a_load_survives_one_death_and_is_blamed_for_two(platform: FunctionPlatform) -> None:
    call = remote.Remote.call
    deaths = 0

    async def deadly(self: remote.Remote, request: object, patience: float) -> object:
        nonlocal deaths
        if isinstance(request, Load) and deaths:
            deaths -= 1
            os.kill(self.pid, signal.SIGKILL)
        return await call(self, request, patience)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote.Remote, "call", deadly)
        deaths = 1
        await platform.check(app(COUNT))
        deaths = 2
        with pytest.raises(DeployError, match="died twice while it loaded the app"):
            await platform.check(app(COUNT))
    await platform.check(app(COUNT))


async def test_an_app_that_kills_each_new_executor_is_lost_alone(
    platform: FunctionPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "BACKOFF", (0.0,))
    poison = await deploy(platform, app(COUNT, "poison"))
    good = await deploy(platform, app(COUNT, "good"))
    call = remote.Remote.call

    async def deadly(self: remote.Remote, request: object, patience: float) -> object:
        if isinstance(request, Load) and "poison" in request.source:
            os.kill(self.pid, signal.SIGKILL)
        return await call(self, request, patience)  # type: ignore[arg-type]

    monkeypatch.setattr(remote.Remote, "call", deadly)
    first = executor(platform)
    os.kill(first, signal.SIGKILL)
    while executor(platform) == first or platform.report().executors[0].problem:
        try:
            await platform.invoke(good("f"), [event()])
        except Unavailable:
            await asyncio.sleep(0)
    assert [ok(o).value for o in await platform.invoke(good("f"), [event(seq=4)])] == [4]
    with pytest.raises(Unavailable, match="no longer loads: the sandbox died twice"):
        await platform.invoke(poison("f"), [event()])


async def test_a_batch_whose_version_is_unloaded_blames_no_event(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app(BUSY))
    batch = asyncio.create_task(platform.invoke(ref("f"), [event(seq=n) for n in range(50)]))
    while platform._running.lanes[0]._calls < 5:
        await asyncio.sleep(0)
    await platform.unload("greenhouse", ref("f").version)
    with pytest.raises(Unavailable, match="unloaded"):
        await batch
    assert platform.stats().failures == {}


async def test_a_silent_executor_is_killed(platform: FunctionPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "MARGIN", 0.1)
    ref = await deploy(platform, app(COUNT))
    first = executor(platform)
    os.kill(first, signal.SIGSTOP)
    assert [ok(o).value for o in await platform.invoke(ref("f"), [event()])] == [1]
    assert executor(platform) != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


async def test_an_executor_is_not_killed_for_the_slowness_of_the_gateway(
    platform: FunctionPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer lies in the socket while the gateway's event loop is busy beyond the executor's time."""
    monkeypatch.setattr(lane, "MARGIN", 0.1)
    ref = await deploy(platform, app(COUNT), limits=Limits(time=10_000, load_time=100_000))
    first = executor(platform)
    call = asyncio.create_task(platform.invoke(ref("f"), [event()]))
    while platform._running.lanes[0]._calls < 4:  # check, its end, load, and now the run
        await asyncio.sleep(0)
    threading.Event().wait(0.5)
    assert [ok(o).value for o in await call] == [1]
    assert [ok(o).value for o in await platform.invoke(ref("f"), [event(seq=2)])] == [2]
    assert executor(platform) == first


async def test_an_executor_that_cannot_start_again_makes_functions_unavailable(
    platform: FunctionPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await deploy(platform, app(COUNT))
    monkeypatch.setattr(
        "edge_runtime.functions.engines.command", lambda *_: [sys.executable, "-c", "import sys; sys.exit('no room')"]
    )
    monkeypatch.setattr(lane, "BACKOFF", (0.0,))
    os.kill(executor(platform), signal.SIGKILL)
    with pytest.raises(Unavailable, match="no room"):
        await platform.invoke(ref("f"), [event()])
    monkeypatch.setattr("edge_runtime.functions.engines.command", spawn.command)
    while platform.report().executors[0].problem:
        await asyncio.sleep(0)
    assert [ok(o).value for o in await platform.invoke(ref("f"), [event()])] == [1]


async def test_an_executor_that_dies_while_idle_is_replaced_at_once(platform: FunctionPlatform) -> None:
    ref = await deploy(platform, app(COUNT))
    first = executor(platform)
    assert platform.report().executors[0].jail is not None
    os.kill(first, signal.SIGKILL)
    while platform.report().executors[0].jail is not None:  # the dead are confined by nothing
        await asyncio.sleep(0.01)
    while executor(platform) == first or platform.report().executors[0].jail is None:  # nobody calls
        await asyncio.sleep(0.01)
    assert [ok(o).value for o in await platform.invoke(ref("f"), [event(seq=3)])] == [3]
    assert platform.stats().restarts == 1


async def test_an_executor_that_never_lives_long_is_started_with_growing_pauses(
    platform: FunctionPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[int] = []
    recover = lane.Lane._recover

    async def noted(self: lane.Lane, attempt: int = 0) -> None:
        attempts.append(attempt)
        await recover(self, attempt)

    monkeypatch.setattr(lane.Lane, "_recover", noted)
    monkeypatch.setattr(lane, "BACKOFF", (0.0,))
    while len(attempts) < 3:
        if platform.report().executors[0].jail is not None:
            os.kill(executor(platform), signal.SIGKILL)
        await asyncio.sleep(0.01)
    assert attempts == [1, 2, 3]


async def test_a_closed_transport_means_a_dead_executor(platform: FunctionPlatform) -> None:
    """It closes a moment before we are told; asyncio's keeps silent about what is written then, uvloop's raises."""
    ref = await deploy(platform, app(COUNT))
    transport = platform._running.lanes[0].remote._channel.transport
    assert transport is not None
    transport.close()
    assert [ok(o).value for o in await platform.invoke(ref("f"), [event(seq=3)])] == [3]
    assert platform.stats().restarts == 1


async def test_nobody_complains_of_an_answer_that_never_came(platform: FunctionPlatform) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    channel = platform._running.lanes[0].remote._channel
    channel.expect()
    channel.close("it ended")
    channel._waiter = None
    gc.collect()
    await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("broken", ["create_subprocess_exec", "socketpair"])
async def test_a_machine_that_is_full_for_a_while_costs_only_that_while(
    platform: FunctionPlatform, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(lane, "BACKOFF", (0.0,))
    ref = await deploy(platform, app(COUNT))
    module = asyncio if broken == "create_subprocess_exec" else socket
    real = getattr(module, broken)
    failures = 2

    def full(*args: Any, **kw: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(*args, **kw)

    monkeypatch.setattr(module, broken, full)
    os.kill(executor(platform), signal.SIGKILL)
    with pytest.raises(Unavailable, match="temporarily unavailable"):
        await platform.invoke(ref("f"), [event()])
    while platform.report().executors[0].problem:
        await asyncio.sleep(0.01)
    assert [ok(o).value for o in await platform.invoke(ref("f"), [event(seq=2)])] == [2]
    assert failures == 0


async def test_a_lane_outlives_what_no_one_foresaw(
    platform: FunctionPlatform, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lane, "BACKOFF", (0.0,))
    ref = await deploy(platform, app(COUNT))
    call = remote.Remote.call

    async def deadly(self: remote.Remote, request: object, patience: float) -> object:
        os.kill(self.pid, signal.SIGKILL)
        return await call(self, request, patience)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(lane.Lane, "_blame", lambda *_: 1 / 0)
        patch.setattr(remote.Remote, "call", deadly)
        with pytest.raises(Unavailable, match="division by zero"):
            await platform.invoke(ref("f"), [event()])
    assert "an executor's work was interrupted" in caplog.text
    assert [ok(o).value for o in await platform.invoke(ref("f"), [event(seq=2)])] == [2]


async def test_a_cancelled_call_leaves_the_lane_in_order(platform: FunctionPlatform) -> None:
    slow = await deploy(platform, app(BUSY, "slow"))
    quick = await deploy(platform, app(COUNT, "quick"))
    task = asyncio.create_task(platform.invoke(slow("f"), [event(seq=n) for n in range(50)]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [ok(o).value for o in await platform.invoke(quick("f"), [event()])] == [1]


async def test_an_executor_ends_with_its_gateway(start: Start) -> None:
    platform = await start(limits=Limits(time=300_000))
    ref = await deploy(platform, app('@app.on("climate")\ndef f(e):\n    while True: pass\n'))
    spinning = asyncio.create_task(platform.invoke(ref("f"), [event()]))
    await asyncio.sleep(0)
    pid = executor(platform)
    await platform.stop()
    with pytest.raises(Unavailable):
        await spinning
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_guest_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    """Machine code that others could have written is never mapped."""
    planted = tmp_path / "guest.cwasm"
    planted.write_bytes(b"x")
    planted.chmod(0o666)
    with pytest.raises(EdgeError, match="not a file of ours alone"):
        await remote.Remote(python_engine(planted, 1)).start()


def test_frames_come_out_whole_however_they_are_cut() -> None:
    data = frame(Unload(1, 2)) + frame(Unloaded(1))
    for size in range(1, len(data) + 1):
        splitter = Splitter()
        frames = [found for at in range(0, len(data), size) for found in splitter.feed(data[at : at + size])]
        assert [len(found) + 4 for found in frames] == [len(frame(Unload(1, 2))), len(frame(Unloaded(1)))]


def test_a_frame_beyond_the_limit_is_refused_before_it_arrives() -> None:
    with pytest.raises(FrameTooLarge):
        Splitter().feed(b"\xff\xff\xff\xff")
