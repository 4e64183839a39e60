"""kill -9 of the whole gateway while boards on serial lines send: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hil.faulty_line import FaultyLine
from tests.ingress.mqtt_house import event_payload
from tests.ingress.serial_house import open_board_end
from tests.integration.test_kill import Gateway
from tests.proto.serial_board import firmware

KILLS = 4
BOARDS = 4


class Board:
    """The firmware's machine on a line: one event after the other, none forgotten before it is acknowledged."""

    def __init__(self, name: str, key: str, line: FaultyLine) -> None:
        self.name = name
        self.acknowledged: list[int] = []
        self._port = open_board_end(line)
        self._session = firmware.Session(name, key.encode(), 30, 10, 4096, 63, random.Random(name).randbytes)

    async def run(self, stop: asyncio.Event) -> None:
        session, seq = self._session, 0
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            now = round(loop.time() * 1000)
            session.receive(self._port.read(256), now, lambda *_: None, self.acknowledged.append)
            seq = len(self.acknowledged)
            session.tick(now)
            session.failure = ""
            if session.state == firmware.CLOSED:
                session.begin(now)
            elif session.has_room():
                payload = bytes(event_payload(seq, {"n": seq}))
                session.publish(now, f"/devices/{self.name}/events/climate", payload, False, seq)
            self._port.write(bytes(session.out))
            session.out[:] = b""
            await asyncio.sleep(0.002)
        self._port.close()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path)
    text = gateway.config.read_text()
    gateway.config.write_text(f'{text}[serial.boards]\npath = "{tmp_path}/tty*"\n')
    await gateway.start()
    yield gateway
    await gateway.kill()


@pytest.mark.timeout(200)
async def test_kills_while_boards_on_serial_lines_send(gateway: Gateway, tmp_path: Path) -> None:
    rng = random.Random(20)
    lines = [FaultyLine(tmp_path / f"tty{n}", seed=n) for n in range(BOARDS)]
    boards = []
    for n, line in enumerate(lines):
        line.plug()
        line.damage = 0.02 * n
        key = (await asyncio.to_thread(gateway.api.add_device, f"b{n}")).key
        boards.append(Board(f"b{n}", key, line))
    stop = asyncio.Event()
    running = [asyncio.ensure_future(board.run(stop)) for board in boards]
    for _ in range(KILLS):
        goal = sum(len(board.acknowledged) for board in boards) + rng.randint(20, 200)
        async with asyncio.timeout(40):
            while sum(len(board.acknowledged) for board in boards) < goal:
                await asyncio.sleep(rng.uniform(0.001, 0.02))
        await gateway.kill()
        await gateway.start()
    least = [len(board.acknowledged) + 5 for board in boards]
    async with asyncio.timeout(40):
        while any(len(board.acknowledged) < number for board, number in zip(boards, least, strict=True)):
            await asyncio.sleep(0.01)
    status = await asyncio.to_thread(gateway.api.status)
    stop.set()
    await asyncio.gather(*running)
    found = await asyncio.to_thread(lambda: list(gateway.api.tail(-1, follow=False)))
    for line in lines:
        line.close()

    assert (status.serial_door["boards"], status.serial_door["ports"]) == (BOARDS, BOARDS)
    events = Counter((entry.device, entry.data["n"]) for entry in found if entry.type == "event")
    assert {(board.name, n) for board in boards for n in board.acknowledged} <= events.keys()
    assert set(events.values()) == {1}, "an event is there twice"
    for board in boards:
        mine = [entry.data["n"] for entry in found if entry.type == "event" and entry.device == board.name]
        assert mine == list(range(len(mine))), "order per device"
