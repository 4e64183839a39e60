"""The front door before the real journal: what was acknowledged is on the disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

from devices.registry import Registry
from edge_runtime.clock import ManualClock
from edge_runtime.events import Event
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.mqtt import MqttFrontDoor
from edge_runtime.journal.sqlite.client import SqliteJournal
from edge_runtime.proto import mqtt
from tests.ingress.mqtt_house import Client, connect_packet, event_packet

BOARDS = 5
EVENTS = 60


async def send_and_collect(client: Client, board: str) -> set[tuple[str, int]]:
    """Send `EVENTS` events, eight in flight; the (device, sequence) of those acknowledged."""
    acknowledged = set()
    for first in range(0, EVENTS, 8):
        group = range(first, min(first + 8, EVENTS))
        client.send(*(event_packet(seq, device=board) for seq in group))
        for seq in group:
            assert await client.receive() == mqtt.puback(seq + 1)
            acknowledged.add((board, seq))
    return acknowledged


async def test_every_acknowledged_event_is_found_after_a_restart(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    clock = ManualClock()
    registry = await Registry.open(journal, clock)
    keys = {f"board-{number}": await registry.add(f"board-{number}") for number in range(BOARDS)}
    admission = await Admission.open(journal, registry, clock, print)
    door = MqttFrontDoor(admission, registry, clock, security=print, log=print)
    port = await door.start("127.0.0.1", 0)
    clients = []
    for board, key in keys.items():
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        client.send(connect_packet(board, key))
        assert await client.receive() == b"\x20\x02\x00\x00"
        clients.append(client)
    collected = await asyncio.gather(*(send_and_collect(c, b) for c, b in zip(clients, keys, strict=True)))
    clients[0].send(event_packet(0, device="board-0"))
    assert await clients[0].receive() == mqtt.puback(1), "a repeat"
    for client in clients:
        client.close()
    await door.stop()
    assert journal.commits < BOARDS * EVENTS, "appends share commits"
    await journal.close()

    again = await SqliteJournal.open(tmp_path / "journal.db")
    try:
        stored = [s.record for s in await again.read(-1, 10_000)]
        assert [(e.device, e.seq) for e in stored if isinstance(e, Event) and e.device == "board-0"] == [
            ("board-0", seq) for seq in range(EVENTS)
        ], "once each, in order"
        assert {(e.device, e.seq) for e in stored if isinstance(e, Event)} == set().union(*collected)
        reopened = await Registry.open(again, clock)
        assert all(reopened.verify(board, key) for board, key in keys.items())
    finally:
        await again.close()
