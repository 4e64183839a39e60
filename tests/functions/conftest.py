from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import uvloop

from edge_runtime.clock import SystemClock
from edge_runtime.events import Event
from edge_runtime.flows.ports import Failure, Outcome, Success
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.sandbox import build, cache, compile
from edge_runtime.manifest import FunctionRef

HEAD = 'from edge import App\napp = App("{name}")\n'

Start = Callable[..., Awaitable[FunctionPlatform]]


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Recovery is tested on both event loops: their transports differ once closed, and the gateway runs on uvloop."""
    if item.path.name == "test_recovery.py":
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


def app(body: str, name: str = "greenhouse") -> dict[str, bytes]:
    """The source of an app, by its file's name."""
    return {f"{name}.py": (HEAD.format(name=name) + body).encode()}


def event(data: Any = None, seq: int = 1, device: str = "b1", kind: str = "climate") -> Event:
    return Event(device, b"bootboot", seq, kind, 1_000_000, 2_000_000, {"n": seq} if data is None else data)


async def deploy(platform: FunctionPlatform, source: dict[str, bytes], **kw: Any) -> Callable[[str], FunctionRef]:
    """Check, store and load an app; answers a way to name its functions."""
    checked = await platform.check(source, **kw)
    await platform.store(checked)
    await platform.load(checked.manifest.app, checked.version)
    return lambda name: FunctionRef(checked.manifest.app, checked.version, name)


def ok(outcome: Outcome) -> Success:
    assert isinstance(outcome, Success), outcome
    return outcome


def failed(outcome: Outcome) -> Failure:
    assert isinstance(outcome, Failure), outcome
    return outcome


@pytest.fixture(scope="session")
def guest() -> tuple[Path, Path]:
    """The real guest, built and compiled; cached between runs."""
    folder = cache.default_folder()
    wasm = build.built(folder, lambda *_: None)
    return wasm, compile.compiled(wasm, build.guest_version(), folder, lambda *_: None)


@pytest_asyncio.fixture
async def start(guest: object, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts platforms, and stops them after the test."""
    started: list[FunctionPlatform] = []

    async def make(executors: int = 1, limits: Limits | None = None, stock: int = 1) -> FunctionPlatform:
        made = FunctionPlatform(tmp_path / "apps", SystemClock(), executors=executors, limits=limits, stock=stock)
        started.append(made)
        await made.start()
        return made

    yield make
    for made in started:
        await made.stop()


@pytest_asyncio.fixture
async def platform(start: Start) -> FunctionPlatform:
    """A platform with one executor and deadlines of 200 ms."""
    return await start(limits=Limits(time=200_000))
