"""The serial door over real terminals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from binascii import a2b_base64
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cbor2
import pytest

from edge_runtime.errors import StorageError
from edge_runtime.ingress.pace import Allowance, Pace
from edge_runtime.ingress.serial_find import SerialRule, find, why_not
from edge_runtime.proto.serial import frames
from hil.faulty_line import FaultyLine
from tests.ingress.mqtt_house import event_payload, eventually
from tests.ingress.serial_house import SerialHouse, open_board_end
from tests.proto.serial_board import firmware


class Board:
    """The firmware's machine on pyserial. It says what it is told to, and acknowledges what it gets."""

    def __init__(self, house: SerialHouse, line: FaultyLine, device: str, key: str) -> None:
        self.port = open_board_end(line)
        self.session = firmware.Session(device, key.encode(), 30, 10, 4096, 63, random.Random(device).randbytes)
        self.waiting: list[tuple[str, bytes]] = []
        self.acknowledged: list[tuple[str, bytes]] = []
        self.messages: list[tuple[str, bytes]] = []
        self.failures: list[str] = []
        self.device = device
        self._task = asyncio.create_task(self._run(house))

    async def _run(self, house: SerialHouse) -> None:
        session = self.session
        while True:
            now = house.clock.monotonic() // 1000
            session.receive(self.port.read(256), now, self._message, self._acknowledged)
            session.tick(now)
            if session.failure:
                self.failures.append(session.failure)
                session.failure = ""
                if session.refused:
                    return
            if session.state == firmware.CLOSED:
                session.begin(now)
            elif self.waiting and session.has_room():
                topic, payload = self.waiting[0]
                session.publish(now, f"/devices/{self.device}/{topic}", payload, False, self.waiting[0])
            self.port.write(bytes(session.out))
            session.out[:] = b""
            await asyncio.sleep(0.002)

    def _message(self, topic: str, payload: bytes, packet: int) -> None:
        self.messages.append((topic, payload))

    def _acknowledged(self, token: tuple[str, bytes]) -> None:
        self.acknowledged.append(token)
        self.waiting.pop(0)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.port.close()


MakeBoard = Callable[..., Awaitable[Board]]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[SerialHouse]:
    house = await SerialHouse.build(tmp_path)
    yield house
    await house.tear_down()


@pytest.fixture
async def board(house: SerialHouse) -> AsyncIterator[MakeBoard]:
    made: list[Board] = []

    async def make(device: str = "d", key: str = "", line: FaultyLine | None = None) -> Board:
        if not key:
            key = await house.registry.add(device)
        made.append(Board(house, line or house.line(len(made)), device, key))
        await house.door.scan()
        return made[-1]

    yield make
    for one in made:
        await one.stop()


def event(seq: int, data: Any = None) -> tuple[str, bytes]:
    return "events/climate", event_payload(seq, data)


async def test_an_event_in_a_command_out_a_reply_in(house: SerialHouse, board: MakeBoard) -> None:
    one = await board()
    one.waiting = [event(n) for n in range(20)]
    await eventually(lambda: len(one.acknowledged) == 20)
    assert [e.seq for e in house.events] == list(range(20))
    assert house.listening == ["d"]
    assert house.door.connected() == {"d"}
    order = house.order("d")
    await house.journal.append([order])
    assert house.door.deliver(order)
    await eventually(lambda: one.messages != [])
    assert one.messages[0][0] == "commands/fan"
    assert cbor2.loads(one.messages[0][1])[0] == order.id
    one.waiting = [("replies", cbor2.dumps({0: order.id, 1: 0, 2: "ok"}))]
    await eventually(lambda: len(house.ends) == 1)
    figures = house.door.figures()
    assert (figures.messages, figures.acknowledged, figures.commands, figures.boards) == (21, 21, 1, 1)
    assert house.security == []


async def test_no_acknowledgement_before_the_commit(house: SerialHouse, board: MakeBoard) -> None:
    one = await board()
    await eventually(lambda: house.listening == ["d"])
    house.journal.slow = True
    one.waiting = [event(0)]
    await eventually(lambda: len(house.journal.under_way) == 1)
    await eventually(lambda: house.door.figures().repeats >= 1)
    assert one.acknowledged == []
    assert len(house.journal.under_way) == 1, "a repeat is not a second message"
    await house.journal.let_through(1)
    await eventually(lambda: len(one.acknowledged) == 1)


async def test_what_cannot_be_stored_ends_the_session_and_comes_again(house: SerialHouse, board: MakeBoard) -> None:
    one = await board()
    await eventually(lambda: house.listening == ["d"])
    house.journal.slow = True
    one.waiting = [event(0)]
    await eventually(lambda: len(house.journal.under_way) == 1)
    house.journal.under_way.popleft()[1].set_exception(StorageError("the disk is full"))
    house.journal.slow = False
    await eventually(lambda: len(one.acknowledged) == 1)
    assert one.failures == ["the gateway closed the session: it cannot store"]
    assert [e.seq for e in house.events] == [0]
    assert house.door.counters.refused == 1
    assert any("could not be stored" in line for line in house.log)


async def test_a_wrong_key_an_unknown_device_and_a_blocked_one_stay_out(house: SerialHouse, board: MakeBoard) -> None:
    await house.registry.add("known")
    blocked = await house.registry.add("blocked")
    await house.registry.block("blocked")
    boards = [await board("known", "x" * 43), await board("nobody", "y" * 43), await board("blocked", blocked)]
    await eventually(lambda: all(one.failures for one in boards))
    assert {one.failures[0].partition(": ")[2] for one in boards} == {
        "it does not know this device, or the key is wrong"
    }
    assert len(house.security) == 3
    assert house.door.connected() == frozenset()
    assert "x" * 43 not in "".join(house.security + house.log)


async def test_a_board_that_can_prove_nothing_needs_a_port_that_allows_it(tmp_path: Path) -> None:
    for auth in (True, False):
        folder = tmp_path / str(auth)
        folder.mkdir()
        house = await SerialHouse.build(folder, SerialRule("boards", str(folder / "tty*"), auth=auth))
        await house.registry.add("d")
        line = house.line()
        await house.door.scan()
        port = open_board_end(line)
        nonce = b"12345678"
        port.write(frames.encode(frames.Type.HELLO, 0, b"\1\0\x3f\0\x1e" + nonce + b"d"))
        challenge = await answer(port)
        assert challenge.type == frames.Type.CHALLENGE
        port.write(frames.encode(frames.Type.PROOF, 0))
        last = await answer(port)
        assert last.type == (frames.Type.REFUSED if auth else frames.Type.WELCOME)
        assert house.door.connected() == (frozenset() if auth else {"d"})
        assert len(house.security) == auth
        port.close()
        await house.tear_down()


async def answer(port: Any) -> frames.Frame:
    """The next frame of the gateway, outside a session."""
    found = bytearray()

    def whole() -> bool:
        found.extend(port.read(256))
        return len(found) > 2 and found[-1] == 0

    await eventually(whole)
    frame = frames.decode(bytes(found[1:-1]), 0)
    assert frame is not None
    return frame


async def test_the_wrong_topic_too_much_and_what_is_no_event_become_dead_letters(
    house: SerialHouse, board: MakeBoard
) -> None:
    one = await board()
    bad = [("nowhere", b"1"), ("events/climate", b"\xff"), ("events/climate", b"x" * 9000), ("events/../d2", b"1")]
    one.waiting = [*bad, event(0)]
    await eventually(lambda: len(one.acknowledged) == 5)
    assert [e.seq for e in house.events] == [0]
    assert [letter.topic for letter in house.letters] == [f"/devices/d/{topic}" for topic, _ in bad]
    assert "larger than 8192" in house.letters[2].detail
    assert house.door.counters.dead == 4


async def test_text_between_frames_goes_to_the_log_bounded(house: SerialHouse, board: MakeBoard) -> None:
    one = await board()
    await eventually(lambda: house.listening == ["d"])
    one.port.write(b"Traceback (most recent call last):\r\n  \x1b[31mValueError\x1b[0m: no pin\r\n")
    one.waiting = [event(0)]
    await eventually(lambda: len(one.acknowledged) == 1)
    said = [line for line in house.log if "says" in line]
    assert "Traceback (most recent call last):" in said[0]
    assert "\x1b" not in said[1]
    for n in range(200):
        one.port.write(b"flood of text %d\r\n" % n)
    one.waiting = [event(1)]
    await eventually(lambda: len(one.acknowledged) == 2)
    assert len([line for line in house.log if "says" in line]) < 40


async def test_a_port_without_a_board_hears_nothing(house: SerialHouse) -> None:
    line = house.line()
    await house.door.scan()
    port = open_board_end(line)
    port.write(b"MicroPython v1.28 on 2026-11-01\r\n>>> ")
    await eventually(lambda: any("MicroPython v1.28" in text for text in house.log))
    assert line.passed[1] == 0
    port.close()


async def test_unplugged_in_the_middle_of_a_frame_and_plugged_in_again(house: SerialHouse, board: MakeBoard) -> None:
    one = await board()
    line = house.lines[0]
    await eventually(lambda: house.listening == ["d"])
    for turn in range(3):
        line.rate = 2000
        one.waiting.append(event(turn, {"filling": "x" * 300}))
        before = line.passed[0]
        await eventually(lambda before=before: line.passed[0] > before + 100)  # type: ignore[misc]
        line.unplug()
        await eventually(lambda: house.door.connected() == frozenset())
        line.rate = 0
        line.plug()
        await house.door.scan()
        await eventually(lambda turn=turn: len(one.acknowledged) == turn + 1)  # type: ignore[misc]
    assert [e.seq for e in house.events] == [0, 1, 2]
    assert any("is gone" in text for text in house.log)


async def test_a_port_is_lent_and_given_back(house: SerialHouse, board: MakeBoard) -> None:
    await board()
    await eventually(lambda: house.listening == ["d"])
    port = str(house.lines[0].path)
    assert house.door.lend(port, 600)
    assert house.door.connected() == frozenset()
    for _ in range(3):
        await house.door.scan()
    assert house.door.figures().ports == 0
    from serial import Serial

    taken = Serial(port, 115_200, exclusive=True)
    taken.close()
    assert not house.door.lend(port, 0)
    await house.door.scan()
    assert house.door.figures().ports == 1
    await eventually(lambda: house.door.connected() == frozenset({"d"}))
    # One that never gives it back has it for so long.
    assert house.door.lend(port, 0.001)
    await eventually(lambda: house.door.figures().ports == 1)


async def test_twenty_boards_at_once_on_bad_lines(house: SerialHouse, board: MakeBoard) -> None:
    boards = [await board(f"b{n}") for n in range(20)]
    for n, line in enumerate(house.lines):
        line.loss, line.damage = (0.05, 0.05) if n % 2 else (0, 0)
    for one in boards:
        one.waiting = [event(n) for n in range(5)]
    await eventually(lambda: all(len(one.acknowledged) == 5 for one in boards))
    for one in boards:
        assert [e.seq for e in house.events if e.device == one.device] == list(range(5))
    assert house.door.figures().boards == 20


async def test_a_device_on_two_ports_is_on_the_newer_one(house: SerialHouse, board: MakeBoard) -> None:
    key = await house.registry.add("d")
    first = await board("d", key)
    await eventually(lambda: house.listening == ["d"])
    first._task.cancel()
    second = await board("d", key)
    await eventually(lambda: len(house.listening) == 2)
    second.waiting = [event(0)]
    await eventually(lambda: len(second.acknowledged) == 1)
    assert house.door.figures().boards == 1
    assert any("is on" in line for line in house.log)


async def test_a_device_that_is_blocked_is_out_at_once(house: SerialHouse, board: MakeBoard) -> None:
    one = await board()
    await eventually(lambda: house.listening == ["d"])
    await house.registry.block("d")
    await eventually(lambda: len(one.failures) == 2)
    assert one.failures[0] == "the gateway closed the session: the device was changed"
    assert one.session.refused


async def test_a_stop_acknowledges_what_is_being_stored(house: SerialHouse, board: MakeBoard) -> None:
    one = await board()
    await eventually(lambda: house.listening == ["d"])
    house.journal.slow = True
    one.waiting = [event(0)]
    await eventually(lambda: len(house.journal.under_way) == 1)
    stopping = asyncio.create_task(house.door.stop())
    await asyncio.sleep(0)
    await house.journal.let_through(1)
    await stopping
    await eventually(lambda: len(one.acknowledged) == 1)


async def test_a_line_that_takes_nothing_is_read_no_more(house: SerialHouse) -> None:
    line = house.line()
    await house.door.scan()
    port = open_board_end(line)
    hello = frames.encode(frames.Type.HELLO, 0, b"\1\0\x3f\0\x1e" + b"12345678" + b"d")
    opened = next(iter(house.door._ports.values()))

    def push_until_it_stops_reading() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.write(port.fileno(), hello * 50)
        return not opened._reading

    await eventually(push_until_it_stops_reading)
    assert len(opened._out) < 4096
    port.reset_input_buffer()
    heard = bytearray()

    def listens_again() -> bool:
        heard.extend(port.read(4096))
        return opened._reading

    await eventually(listens_again)
    assert len(heard) > 1024
    port.close()


async def test_a_board_faster_than_its_pace_is_not_read_for_a_while(house: SerialHouse, board: MakeBoard) -> None:
    house.door.admission.pace = Pace(house.clock, lambda device: Allowance(rate=20, burst=50_000))
    one = await board()
    await eventually(lambda: house.listening == ["d"])
    port = next(iter(house.door._ports.values()))
    one.waiting = [event(n) for n in range(8)]
    begun = house.clock.monotonic()
    await eventually(lambda: not port._reading)
    await eventually(lambda: len(one.acknowledged) == 8)
    assert house.clock.monotonic() - begun > 200_000, "8 events, of which 2 at once and then 20 a second"
    assert [e.seq for e in house.events] == list(range(8))


async def test_why_a_port_cannot_be_opened_is_said_once(house: SerialHouse) -> None:
    (house.folder / "tty-none").symlink_to("/dev/null")
    await house.door.scan()
    await house.door.scan()
    assert len([line for line in house.log if "/dev/null" in line]) == 1
    line = house.line()
    other = open_gateway_end(line)
    await house.door.scan()
    await house.door.scan()
    assert len([text for text in house.log if "another program has it" in text]) == 1
    other.close()
    await house.door.scan()
    assert house.door.figures().ports == 1


def open_gateway_end(line: FaultyLine) -> Any:
    import serial

    return serial.Serial(str(line.path), exclusive=True)


def test_ports_are_found_by_path_usb_id_and_number(tmp_path: Path) -> None:
    for name in ("ttyACM0", "ttyACM1", "ttyUSB0"):
        (tmp_path / name).touch()
    pico = SimpleNamespace(device=str(tmp_path / "ttyACM0"), vid=0x2E8A, pid=5, serial_number="E66")
    other = SimpleNamespace(device=str(tmp_path / "ttyACM1"), vid=0x2E8A, pid=5, serial_number="E67")
    uart = SimpleNamespace(device=str(tmp_path / "ttyUSB0"), vid=None, pid=None, serial_number=None)

    def found(**rule: Any) -> set[str]:
        return {Path(path).name for path in find([SerialRule("r", **rule)], lambda: [pico, other, uart])}

    assert found(path=str(tmp_path / "ttyACM*")) == {"ttyACM0", "ttyACM1"}
    assert found(usb="2e8a:0005") == found(usb="2E8A") == {"ttyACM0", "ttyACM1"}
    assert found(usb="2e8a:000a") == set()
    assert found(usb="2e8a", number="E67") == {"ttyACM1"}
    assert found(number="E66") == {"ttyACM0"}
    assert found(path=str(tmp_path / "*0"), usb="2e8a") == {"ttyACM0"}
    assert "dialout" in why_not("/dev/ttyX", PermissionError(13, "no"))


def test_the_digest_is_that_of_the_registry() -> None:
    from devices.credentials import new_key

    text, digest = new_key()
    assert sha256(a2b_base64(text.replace("-", "+").replace("_", "/") + "=")).digest() == digest
