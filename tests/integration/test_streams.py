"""Windows, absences and joins in a real gateway: over MQTT, through the worker's process, into the sandbox and back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

from edge_runtime.errors import DeployError
from edge_runtime.planes.messages import Line
from edge_runtime.proto import mqtt
from tests.ingress.mqtt_house import BOOT
from tests.integration.test_gateway import PUBACK, Site

APP = """
from edge import App, count, fold, mean, quantile
app = App("house")

@app.window("climate", every="1s", idle="1s", lateness="10m",
            compute={"n": count(), "mean": mean("t"), "p50": quantile("t", 0.5),
                     "span": fold("t", lambda v: max(v) - min(v))})
def second(pane, ctx):
    ctx.emit("climate.second", {"n": pane.values["n"], "mean": pane.values["mean"], "p50": pane.values["p50"],
                                "span": pane.values["span"], "key": pane.key, "timing": pane.timing})
    ctx.command(pane.key, "shown", pane.values["mean"])

@app.absent("climate", after="2s")
def silent(pane, ctx):
    ctx.emit("silent", {"key": pane.key})

@app.join("door", "climate", within="5s")
def both(pane, ctx):
    ctx.emit("both", pane.values)
"""

TABLE = """
[streams.steps]
kind = "climate"
emit = "climate.fahrenheit"
steps = ["map f = t * 9 / 5 + 32"]
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, TABLE)
    await site.start()
    yield site
    await site.stop()


def packet(seq: int, data: Any, kind: str = "climate") -> bytes:
    """Taken now: the gateway would not believe a clock that is days behind."""
    payload = cbor2.dumps({0: BOOT, 1: seq, 2: time.time_ns() // 1000, 4: data})
    return mqtt.publish(f"/devices/d/events/{kind}", payload, qos=1, packet_id=seq + 1)


async def send(client: Any, first: int, values: list[Any]) -> None:
    for seq, value in enumerate(values, first):
        client.send(packet(seq, {"t": value}))
        assert (await client.receive())[:2] == PUBACK


def named(lines: list[Line], name: str) -> list[Line]:
    return [line for line in lines if line.name == name]


def counted(lines: list[Line]) -> int:
    return sum(line.data["n"] for line in named(lines, "climate.second"))


OWN = """
from edge import App, count, fold
app = App("own")

class Spread:
    def __init__(self):
        self.low = self.high = None
        self.n = 0
    def add(self, value):
        if value == 666:
            raise ValueError("too odd")
        self.low = value if self.low is None else min(value, self.low)
        self.high = value if self.high is None else max(value, self.high)
        self.n += 1
    def merge(self, other):
        if other.n:
            for end in (other.low, other.high):
                self.add(end)
            self.n += other.n - 2
    def result(self):
        return [self.n, self.low, self.high]

@app.window("climate", every="1h", offset="OFFSET", early_count=700, compute={"own": fold("t", Spread), "n": count()})
def hourly(pane, ctx):
    ctx.emit("spread", {"own": pane.values["own"], "n": pane.values["n"]})
"""


async def test_an_aggregate_of_ones_own_is_folded_in_the_sandbox_whenever_there_is_much_of_it(site: Site) -> None:
    # No hour ends in the middle of the test.
    await site.deploy(OWN.replace("OFFSET", f"{int(time.time() - 600) % 3600}s"))
    client = await site.device("d")
    await send(client, 0, [*range(1000, 1690), *range(10)])
    spread = named(await site.until("event", lambda found: bool(named(found, "spread"))), "spread")[0]
    assert spread.data == {"own": [700, 0, 1689], "n": 700}
    await send(client, 700, [666, *[1] * 699])
    [letter] = await site.until("dead-letter", lambda found: bool(found))
    assert letter.data["flow"] == "own.hourly"
    assert "'own' could not be folded, and 700 values are left out: error: ValueError: too odd" in str(letter.data)


async def test_readings_become_panes_commands_and_lineage(site: Site) -> None:
    await site.deploy(APP)
    client = await site.device("d")
    await send(client, 0, [1, 2, 3, 4])
    lines = await site.until("event", lambda found: counted(found) == 4)
    panes = [line.data for line in named(lines, "climate.second")]
    assert {pane["key"] for pane in panes} == {"d"}
    assert {pane["timing"] for pane in panes} == {"on_time"}
    assert sum(pane["mean"] * pane["n"] for pane in panes) == 10
    assert all(pane["span"] == pane["n"] - 1 for pane in panes)
    commands = await site.until("command", lambda found: len(found) == len(panes))
    assert [command.device for command in commands] == ["d"] * len(panes)
    trace = await site.gateway.lineage.trace(named(lines, "climate.second")[0].id)
    assert "house.second.stream" in str(trace)
    silent = await site.until("event", lambda found: bool(named(found, "silent")))
    assert named(silent, "silent")[0].data == {"key": "d"}
    degrees = [line.data for line in named(lines, "climate.fahrenheit")]
    assert [round(found["f"], 1) for found in degrees] == [33.8, 35.6, 37.4, 39.2]


async def test_neither_a_dead_worker_nor_a_restart_loses_or_doubles_a_reading(site: Site) -> None:
    await site.deploy(APP)
    client = await site.device("d")
    await send(client, 0, [1, 2])
    await site.until("event", lambda found: len(named(found, "climate.fahrenheit")) == 2)
    pid = site.gateway.streams.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await send(client, 2, [3])
    await site.until("event", lambda found: len(named(found, "climate.fahrenheit")) == 3)
    await site.stop()
    await site.start()
    lines = await site.until("event", lambda found: counted(found) >= 3)
    assert counted(lines) == 3
    assert len(named(lines, "climate.fahrenheit")) == 3
    assert site.gateway.streams.worker.pid not in (None, pid)


async def test_two_kinds_meet(site: Site) -> None:
    await site.deploy(APP)
    client = await site.device("d")
    await send(client, 0, [7])
    client.send(packet(1, {"open": True}, "door"))
    assert (await client.receive())[:2] == PUBACK
    lines = await site.until("event", lambda found: bool(named(found, "both")))
    assert [line.data for line in named(lines, "both")] == [{"left": {"open": True}, "right": {"t": 7}}]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ('@app.window("climate", every="1s", compute={"x": mean("t")}, lateness="-1s")', "lateness"),
        ('@app.window("climate", every="1s", compute={})', "what to compute"),
        ('@app.window("climate", every="1m", size="30s", compute={"x": mean("t")})', "size"),
        ('@app.window("climate", every="1m", where="t >", compute={"x": mean("t")})', "expression"),
        ('@app.join("a", "b")', "within"),
        ('@app.absent("a", after="0s")', "after"),
        ('@app.sequence("a", then="", within="1s")', "a kind is"),
        ('@app.windw("a")', "did you mean '@app.window'"),
    ],
)
async def test_what_cannot_be_is_refused_at_the_deploy(site: Site, source: str, why: str) -> None:
    with pytest.raises(DeployError) as refused:
        await site.deploy(f"from edge import *\napp = App('x')\n{source}\ndef f(pane): pass\n")
    assert why in f"{refused.value} {refused.value.hint}"


async def test_an_explanation(site: Site) -> None:
    await site.deploy(APP)
    found = await site.gateway.deployments.explain("house")
    parts = {trigger.trigger: trigger.parts for trigger in found.triggers}
    assert [part.runs_as for part in parts["second"]] == ["native stream operator", "sandboxed function"]
    assert parts["second"][0].flow == "house.second.stream"
    assert "per device" in parts["second"][0].state
    rows = {row.name: row.terms for row in site.gateway.apps()[0].triggers}
    assert rows["silent"] == "no climate for 2s"
