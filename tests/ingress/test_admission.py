"""What a device sends becomes durable records, or it is told that it did not."""

from __future__ import annotations

import asyncio

import cbor2
import pytest

from devices.registry import Registry
from edge_runtime import wire
from edge_runtime.clock import ManualClock
from edge_runtime.events import Event, Origin
from edge_runtime.ingress.admission import Admission, Verdict
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, CommandEnd, DeadLetter
from tests.ingress.mqtt_house import BOOT, SlowJournal, event_payload


class Desk:
    """Admission over a journal in memory."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.clock = ManualClock()
        self.security: list[str] = []
        self.registry: Registry
        self.admission: Admission

    @property
    def last(self) -> object:
        return self.journal.records()[-1]

    async def command(self, device: str = "d", index: int = 0) -> Command:
        now = self.clock.now()
        command = Command(device, "fan", None, now, now + 1, Origin("app.f", 0, "c", index))
        await self.journal.append([command])
        return command


@pytest.fixture
async def desk() -> Desk:
    desk = Desk()
    desk.registry = await Registry.open(desk.journal, desk.clock)
    desk.admission = await Admission.open(desk.journal, desk.registry, desk.clock, desk.security.append)
    return desk


def reply(command: Command, status: int = wire.DONE, result: object = None) -> bytes:
    return cbor2.dumps({0: command.id, 1: status, 2: result})


async def test_an_event_is_stored_and_dated(desk: Desk) -> None:
    assert await desk.admission.admit("d", "climate", event_payload(3, {"t": 21.5})) is Verdict.ACCEPTED
    assert desk.journal.records() == [
        Event("d", BOOT, 3, "climate", 1_795_000_000_000_003, desk.clock.now(), {"t": 21.5})
    ]
    assert desk.registry.last_seen == {"d": desk.clock.now()}


async def test_an_undated_event_is_dated_by_the_clock_at_arrival(desk: Desk) -> None:
    desk.clock.advance(5_000_000)
    await desk.admission.admit("d", "climate", cbor2.dumps({0: BOOT, 1: 0, 3: 1000, 6: 3000, 4: 1}))
    assert isinstance(desk.last, Event)
    assert desk.last.time == desk.clock.now() - 2_000_000


async def test_a_batch_is_one_append(desk: Desk) -> None:
    batch = cbor2.dumps({0: BOOT, 1: 5, 2: 0, 5: [[0, "a", 1], [10, "b", 2]]})
    assert await desk.admission.admit("d", None, batch) is Verdict.ACCEPTED
    assert [(r.seq, r.kind) for r in desk.journal.records() if isinstance(r, Event)] == [(5, "a"), (6, "b")]
    assert await desk.admission.admit("d", None, batch) is Verdict.DUPLICATE
    more = cbor2.dumps({0: BOOT, 1: 6, 2: 0, 5: [[10, "b", 2], [20, "c", 3]]})
    assert await desk.admission.admit("d", None, more) is Verdict.ACCEPTED, "one of the two is new"


async def test_a_repeat_changes_nothing_and_a_conflict_is_kept_for_a_person(desk: Desk) -> None:
    await desk.admission.admit("d", "climate", event_payload(1))
    assert await desk.admission.admit("d", "climate", event_payload(1)) is Verdict.DUPLICATE
    assert len(desk.journal.records()) == 1
    assert await desk.admission.admit("d", "climate", event_payload(1, "other")) is Verdict.DEAD
    assert isinstance(desk.last, DeadLetter)
    assert desk.last.reason == "conflict"


async def test_what_cannot_be_read_becomes_a_dead_letter(desk: Desk) -> None:
    assert await desk.admission.admit("d", "climate", b"\xff", "/devices/d/events/climate") is Verdict.DEAD
    letter = desk.last
    assert isinstance(letter, DeadLetter)
    assert (letter.flow, letter.reason, letter.device) == ("ingress", "invalid", "d")
    assert (letter.payload, letter.topic, letter.time) == (b"\xff", "/devices/d/events/climate", desk.clock.now())
    assert "CBOR" in letter.detail


async def test_of_a_long_unreadable_payload_the_start_is_kept_and_the_length_told(desk: Desk) -> None:
    await desk.admission.admit("d", "climate", b"\xff" * 200_000, "t" * 60_000)
    letter = desk.last
    assert isinstance(letter, DeadLetter)
    assert letter.payload == b"\xff" * 4096
    assert "200000" in letter.detail
    assert len(letter.topic) == 256


async def test_what_cannot_be_stored_is_refused_and_can_be_sent_again(desk: Desk) -> None:
    command = await desk.command()
    desk.journal.full = True
    assert await desk.admission.admit("d", "climate", event_payload(1)) is Verdict.REFUSED
    assert await desk.admission.admit("d", "climate", b"junk") is Verdict.REFUSED
    assert await desk.admission.reply("d", reply(command)) is Verdict.REFUSED
    desk.journal.full = False
    assert await desk.admission.admit("d", "climate", event_payload(1)) is Verdict.ACCEPTED
    assert await desk.admission.reply("d", reply(command)) is Verdict.ACCEPTED


async def test_a_reply_ends_its_command(desk: Desk) -> None:
    command = await desk.command()
    assert await desk.admission.reply("d", reply(command, wire.FAILED, "stuck")) is Verdict.ACCEPTED
    assert desk.last == CommandEnd(command.id, "d", wire.FAILED, "stuck", desk.clock.now())
    assert (await desk.journal.tables()).outbox == []


async def test_a_late_or_unknown_reply_is_acknowledged_and_changes_nothing(desk: Desk) -> None:
    command = await desk.command()
    await desk.admission.reply("d", reply(command))
    before = len(desk.journal.records())
    assert await desk.admission.reply("d", reply(command)) is Verdict.DUPLICATE
    unknown = cbor2.dumps({0: b"x" * 16, 1: 0})
    assert await desk.admission.reply("d", unknown) is Verdict.DUPLICATE
    assert len(desk.journal.records()) == before
    assert desk.security == []


async def test_two_replies_at_once_end_the_command_once(desk: Desk) -> None:
    command = await desk.command()
    verdicts = await asyncio.gather(*(desk.admission.reply("d", reply(command)) for _ in range(2)))
    assert sorted(v.name for v in verdicts) == ["ACCEPTED", "DUPLICATE"]
    assert sum(isinstance(r, CommandEnd) for r in desk.journal.records()) == 1


async def test_a_device_cannot_end_the_command_of_another(desk: Desk) -> None:
    command = await desk.command("victim")
    assert await desk.admission.reply("thief", reply(command)) is Verdict.DUPLICATE
    assert (await desk.journal.tables()).outbox == [command]
    (line,) = desk.security
    assert "'thief'" in line
    assert "'victim'" in line


async def test_commands_from_before_the_start_can_be_answered(desk: Desk) -> None:
    command = await desk.command()
    again = MemoryJournal(desk.journal.records())
    registry = await Registry.open(again, desk.clock)
    admission = await Admission.open(again, registry, desk.clock, desk.security.append)
    assert await admission.reply("d", reply(command)) is Verdict.ACCEPTED


async def test_an_unreadable_reply_becomes_a_dead_letter(desk: Desk) -> None:
    assert await desk.admission.reply("d", b"\x00", "/devices/d/replies") is Verdict.DEAD
    assert isinstance(desk.last, DeadLetter)


async def test_appends_do_not_wait_for_each_other() -> None:
    journal = SlowJournal()
    clock = ManualClock()
    admission = await Admission.open(journal, await Registry.open(journal, clock), clock, print)
    journal.slow = True
    waiting = [asyncio.ensure_future(admission.admit("d", "climate", event_payload(i))) for i in range(3)]
    assert len(journal.under_way) == 3
    await journal.let_through(3)
    assert await asyncio.gather(*waiting) == [Verdict.ACCEPTED] * 3
