"""The gateway put together, in this process: what bad input gets, and who is not affected by it."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edge_runtime import config
from edge_runtime.errors import DeployError, EdgeError
from edge_runtime.gateway import Gateway
from edge_runtime.planes.control import Rewind
from edge_runtime.planes.messages import Deploy, Line
from edge_runtime.planes.moments import Moment
from tests.ingress.mqtt_house import Client, connect_packet, event_packet, subscribe_packet

PUBACK = b"\x40\x02"

GOOD = """
from edge import App
app = App("good")

@app.on("climate")
def answer(event, ctx):
    ctx.command(event.device, "fan", {"n": event.data["n"]})
"""

BAD = """
from edge import App
app = App("bad")

@app.on("climate", where="do == 'raise'")
def raising(event, ctx):
    raise ValueError("no such luck")

@app.on("climate", where="do == 'loop'")
def looping(event, ctx):
    while True:
        pass

@app.on("climate", where="do == 'eat'")
def eating(event, ctx):
    kept = []
    while True:
        kept.append(bytearray(1 << 20))

@app.on("climate", where="do == 'print'")
def printing(event, ctx):
    while True:
        print("x" * 1000)
"""


class Site:
    """A gateway on free ports, and what is asked of it."""

    def __init__(self, folder: Path, extra: str = "") -> None:
        self.folder = folder
        text = f'[mqtt]\nlisten = "127.0.0.1:0"\n[functions]\nexecutors = 1\ntime_limit = "300ms"\n{extra}'
        self.config = config.parse(text, folder / "edge.toml")
        self.clients: list[Client] = []

    async def start(self) -> None:
        self.gateway = await Gateway.start(self.config, rng=random.Random(1))

    async def stop(self) -> None:
        for client in self.clients:
            client.close()
        await self.gateway.stop()

    async def deploy(self, source: str, name: str = "app.py") -> str:
        return (await self.gateway.deploy(Deploy({name: source.encode()}))).version

    async def device(self, name: str, *, listen: bool = False) -> Client:
        key = await self.gateway.add_device(name)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.front.mqtt_port)
        client = Client(reader, writer)
        self.clients.append(client)
        client.send(connect_packet(name, key.key))
        assert await client.receive() == b"\x20\x02\0\0"
        if listen:
            client.send(subscribe_packet(1, (f"/devices/{name}/commands/#", 1)))
            assert (await client.receive())[0] == 0x90
        return client

    async def lines(self, kind: str) -> list[Line]:
        return [line async for line in self.gateway.tail(-1, follow=False) if line.type == kind]

    async def until(self, kind: str, enough: Callable[[list[Line]], bool]) -> list[Line]:
        async with asyncio.timeout(30):
            while not enough(found := await self.lines(kind)):
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.start()
    yield site
    await site.stop()


async def test_an_event_becomes_a_command_on_the_wire(site: Site) -> None:
    await site.deploy(GOOD)
    device = await site.device("d", listen=True)
    device.send(event_packet(0, {"n": 7}))
    packets = [await device.receive(), await device.receive()]
    assert packets[0][:2] == PUBACK
    assert packets[1][0] >> 4 == 3
    assert b"/devices/d/commands/fan" in packets[1]


async def test_functions_that_misbehave_are_stopped_and_told_apart(site: Site) -> None:
    version = await site.deploy(BAD, "bad.py")
    await site.deploy(GOOD, "good.py")
    device = await site.device("d")
    for seq, what in enumerate(("raise", "loop", "eat", "print", "nothing")):
        device.send(event_packet(seq, {"do": what, "n": seq}))
        assert (await device.receive())[:2] == PUBACK
    letters = await site.until("dead-letter", lambda found: len(found) >= 4)
    by_flow = {line.data["flow"]: line for line in letters}
    reasons = {flow: line.name for flow, line in by_flow.items()}
    assert reasons == {
        "bad.raising": "error",
        "bad.looping": "timeout",
        "bad.eating": "memory",
        "bad.printing": "output",
    }
    assert "bad.py" in by_flow["bad.raising"].data["detail"]
    assert "ValueError: no such luck" in by_flow["bad.raising"].data["detail"]
    assert {line.data["version"] for line in letters} == {version}
    assert all(line.id.startswith("d/") for line in letters)
    neighbour = await site.until("command", lambda found: len(found) >= 5)
    assert [line.data["n"] for line in neighbour] == [0, 1, 2, 3, 4], "the neighbour function is unaffected"


HOLD = """
from edge import App
app = App("hold")

@app.on("climate", retries=0, on_error="hold")
def picky(event, ctx):
    if event.data.get("poison"):
        raise ValueError("I will not have it")
    ctx.command(event.device, "fan", {"n": event.data["n"]})
"""


async def test_an_app_says_what_happens_to_events_on_which_it_fails(site: Site) -> None:
    await site.deploy(HOLD, "hold.py")
    one, other = await site.device("one"), await site.device("other")
    for seq in range(3):
        one.send(event_packet(seq, {"n": seq, "poison": seq == 1}, device="one"))
        await one.receive()
        other.send(event_packet(seq, {"n": seq}, device="other"))
        await other.receive()
    commands = await site.until("command", lambda found: len(found) >= 4)
    assert [(line.device, line.data["n"]) for line in commands if line.device == "one"] == [("one", 0)]
    (letter,) = await site.until("dead-letter", lambda found: len(found) == 1)
    assert (letter.device, letter.name) == ("one", "error")
    assert site.gateway.flows.runners["hold.picky"].held == {"one": True}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("from edge import App\napp = App('good')\ndef oops(:\n", "line 3"),
        ("import socket\nsocket.socket()\n", "app.py"),
        ("x = 1\n", "app.py"),
        (GOOD.replace('"climate"', '"climate", where="temperature >"'), "where"),
        (GOOD.replace('@app.on("climate")', '@app.route("climate", to="clod")'), "clod"),
    ],
)
async def test_a_broken_app_changes_nothing(site: Site, source: str, says: str) -> None:
    version = await site.deploy(GOOD)
    with pytest.raises(DeployError, match=says):
        await site.deploy(source)
    assert [row.version for row in site.gateway.apps()] == [version]
    device = await site.device("d")
    device.send(event_packet(0, {"n": 1}))
    await site.until("command", lambda found: len(found) == 1)


async def test_a_deployed_change_takes_effect_while_events_flow(site: Site) -> None:
    await site.deploy(GOOD)
    device = await site.device("d")
    for seq in range(30):
        device.send(event_packet(seq, {"n": seq}))
        await device.receive()
        if seq == 15:
            await site.deploy(GOOD.replace('"fan"', '"valve"'))
    commands = await site.until("command", lambda found: len(found) >= 30)
    assert [line.data["n"] for line in commands] == list(range(30)), "in order, none missing, none doubled"
    names = [line.name for line in commands]
    assert names == sorted(names), "the old version first, then the new one"
    assert set(names) == {"fan", "valve"}


async def test_apps_devices_and_progress_survive_a_restart(site: Site) -> None:
    version = await site.deploy(GOOD)
    device = await site.device("d")
    device.send(event_packet(0, {"n": 0}))
    await site.until("command", lambda found: len(found) == 1)
    await site.gateway.stop()
    await site.start()
    assert [row.version for row in site.gateway.apps()] == [version]
    assert [row.device for row in site.gateway.devices()] == ["d"]
    other = await site.device("e")
    other.send(event_packet(0, {"n": 1}, device="e"))
    commands = await site.until("command", lambda found: len(found) >= 2)
    assert [line.device for line in commands] == ["d", "e"]


async def test_a_full_journal_stops_acknowledging_and_says_why(tmp_path: Path) -> None:
    site = Site(tmp_path, '[journal]\nmax_size = "16MiB"\nkeep = 1\n')
    await site.start()
    device = await site.device("d")
    acknowledged = sent = 0
    while sent < 200:
        device.send(event_packet(sent, {"blob": b"x" * 200_000}))
        sent += 1
        answer = await device.receive()
        if not answer:
            break
        assert answer[:2] == PUBACK
        acknowledged += 1
    assert 40 < acknowledged < sent < 200, "the connection was closed instead of acknowledging what is not stored"
    assert len(await site.lines("event")) == acknowledged
    await site.stop()


async def test_a_second_gateway_on_the_same_data_is_refused(site: Site) -> None:
    other = Site(site.folder)
    with pytest.raises(EdgeError, match="running"):
        await Gateway.start(other.config)


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = f'[mqtt]\nlisten = "127.0.0.1:{port}"\n[functions]\nexecutors = 1\n'
        with pytest.raises(EdgeError, match=str(port)) as refused:
            await Gateway.start(config.parse(text, tmp_path / "edge.toml"))
    assert "mqtt.listen" in refused.value.hint
    await site.start()
    await site.stop()


async def test_losing_the_journal_writer_ends_the_gateway(site: Site) -> None:
    process = site.gateway.journal._process
    assert process is not None
    process.kill()
    async with asyncio.timeout(10):
        await site.gateway.broken()


COUNTING = """
from edge import App
app = App("app")
@app.on("climate")
def count(event, ctx):
    ctx.state["n"] = ctx.state.get("n", 0) + event.data["n"]
    ctx.emit("total", ctx.state["n"])
"""


async def test_a_function_finds_what_it_kept_after_a_restart_and_a_rewind_puts_it_back(site: Site) -> None:
    await site.deploy(COUNTING)
    device = await site.device("d")
    for seq in range(3):
        device.send(event_packet(seq, {"n": seq + 1}))
    await site.until("event", lambda found: sum(line.name == "total" for line in found) == 3)
    await site.stop()
    await site.start()
    second = await site.device("e")
    second.send(event_packet(0, {"n": 100}, device="e"))
    found = await site.until("event", lambda found: sum(line.name == "total" for line in found) == 4)
    assert [line.data for line in found if line.name == "total"] == [1, 3, 6, 100]
    with pytest.raises(EdgeError, match=r"'app\.count' keeps state"):
        await site.gateway.control.rewind("app.count", Rewind(Moment(offset=0)))
    from_second = next(line.offset for line in found if line.name == "climate" and line.data == {"n": 2})
    await site.gateway.control.rewind("app.count", Rewind(Moment(offset=from_second), state="restored"))
    found = await site.until("event", lambda found: sum(line.name == "total" for line in found) == 7)
    assert [line.data for line in found if line.name == "total"] == [1, 3, 6, 100, 3, 6, 100]
