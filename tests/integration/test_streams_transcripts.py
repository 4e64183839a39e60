"""A selection of the transcripts through a whole gateway: `edge run`, readings over MQTT, panes from the sandbox.

Those are left out that need processing time to pass as they say; they run through the journal in virtual time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cbor2
import pytest

from edge_runtime.planes.messages import Line
from edge_runtime.proto import mqtt
from edge_runtime.streams.machine import Pane
from edge_runtime.streamspec import SECOND, Fixed, Session, Sliding, Window
from tests.ingress.mqtt_house import Client, connect_packet
from tests.integration.test_kill import Gateway
from tests.streams import transcripts
from tests.streams.transcripts import Transcript

CALLS = {"sum": "total", "min": "minimum", "max": "maximum"}
"""What aggregates are called in an app, where it is not what they are called in a specification."""
MADE = {"count", "sum", "min", "max", "mean", "variance", "first", "last", "collect", "delta", "time_mean"}
BEGIN = """
from edge import App, collect, count, delta, first, last, maximum, mean, minimum, time_mean, total, variance
app = App("told")
"""
EACH = """
@app.window({kind!r}, {arguments})
def {name}(pane, ctx):
    ctx.emit("pane", {{"of": {name!r}, "key": pane.key, "start": pane.start, "end": pane.end, "values": pane.values,
                      "timing": pane.timing, "number": pane.number, "retraction": pane.retraction}})
"""


def _fit(transcript: Transcript) -> bool:
    window = transcript.computation
    if transcript.fails or not isinstance(window, Window) or not isinstance(window.shape, Fixed | Sliding | Session):
        return False
    if isinstance(window.shape, Sliding) and window.shape.size < window.shape.every:
        return False  # an app is not allowed to lose what lies between
    plain = Window(window.shape, window.compute)
    return (
        window.time == "event"
        and (window.idle, window.ahead, window.behind) == (plain.idle, plain.ahead, plain.behind)
        and not (window.trigger.early_every or window.trigger.late_every)
        and all(aggregate.op in MADE and not aggregate.args for aggregate in window.compute.values())
        and all(step.event.kind == "e" for step in transcript.steps)
        and not any(line.startswith("note") for step in transcript.steps for line in step.expected)
    )


ALL = {path.stem: transcripts.read(path) for path in sorted(transcripts.FOLDER.glob("*.txt"))}
CHOSEN = {name: transcript for name, transcript in ALL.items() if _fit(transcript)}


def _arguments(window: Window, base: int) -> str:
    """The window as an app says it; `base` is where the transcript's time begins, microseconds."""
    shape, found = window.shape, dict[str, Any]()
    if isinstance(shape, Fixed):
        found = {"every": shape.size, "offset": (shape.offset + base) % shape.size}
    elif isinstance(shape, Sliding):
        found = {"size": shape.size, "every": shape.every, "offset": (shape.offset + base) % shape.every}
    elif isinstance(shape, Session):
        found = {"gap": shape.gap}
    lengths = found | {"lateness": window.lateness, "delay": window.delay}
    said = [f"{name}={length / SECOND}" for name, length in lengths.items() if length]
    if window.trigger.early_count:
        said.append(f"early_count={window.trigger.early_count}")
    compute = ", ".join(f"{n!r}: {CALLS.get(a.op, a.op)}({a.field!r})" for n, a in window.compute.items())
    return ", ".join([*said, f"by={window.by!r}", f"accumulation={window.accumulation!r}", f"compute={{{compute}}}"])


def _app(base: int) -> bytes:
    windows = [
        EACH.format(name=name, kind=name, arguments=_arguments(transcript.computation, base))
        for name, transcript in CHOSEN.items()
        if isinstance(transcript.computation, Window)
    ]
    return "".join([BEGIN, *windows]).encode()


def _said(line: Line, base: int) -> tuple[str, str, str]:
    """The transcript, the key, and the pane as the transcript has it."""
    data = line.data
    start, end = data["start"] - base, data["end"] - base
    pane = Pane(0, data["key"], start, end, data["values"], data["timing"], data["number"], data["retraction"])
    return data["of"], data["key"], transcripts.spoken(pane)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path)
    await gateway.start()
    yield gateway
    await gateway.kill()


@pytest.mark.timeout(240)
async def test_transcripts_hold_in_a_whole_gateway(gateway: Gateway) -> None:
    assert len(CHOSEN) >= 12
    base = (int(time.time()) - 600) * SECOND
    await asyncio.to_thread(gateway.api.deploy, {"told.py": _app(base)})
    boards: dict[str, Client] = {}
    for device in sorted({step.event.device for one in CHOSEN.values() for step in one.steps} - {"gateway"}):
        key = (await asyncio.to_thread(gateway.api.add_device, device)).key
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        boards[device] = Client(reader, writer)
        boards[device].send(connect_packet(device, key))
        assert (await boards[device].receive())[0] >> 4 == 2
    expected: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    late: Counter[str] = Counter()
    seq = 0
    for name, transcript in CHOSEN.items():
        for step in transcript.steps:
            for line in step.expected:
                word, *rest = line.split(" ")
                if word in ("pane", "back"):
                    expected[name]["" if rest[0] == "~" else rest[0]].append(line)
                else:
                    late[name] += 1
            if step.event.device == "gateway":
                continue
            seq += 1
            payload = cbor2.dumps({0: b"together", 1: seq, 2: base + step.event.time, 4: step.event.data})
            topic = f"/devices/{step.event.device}/events/{name}"
            boards[step.event.device].send(mqtt.publish(topic, payload, qos=1, packet_id=seq))
            assert (await boards[step.event.device].receive())[0] >> 4 == 4

    def lines() -> list[Line]:
        return list(gateway.api.tail(-1, follow=False))

    wanted = sum(len(panes) for by_key in expected.values() for panes in by_key.values())
    async with asyncio.timeout(120):
        while True:
            found = await asyncio.to_thread(lines)
            panes = [_said(line, base) for line in found if line.type == "event" and line.name == "pane"]
            letters = Counter(line.data["flow"] for line in found if line.type == "dead-letter")
            if len(panes) >= wanted and letters.total() >= late.total():
                break
            await asyncio.sleep(0.1)
    told: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, key, text in panes:
        told[name][key].append(text)
    assert told == expected
    assert letters == {f"told.{name}.stream": number for name, number in late.items()}
    for board in boards.values():
        board.close()
