"""Commands on their way: sent when durable, again until answered, never after they have expired."""

from __future__ import annotations

from edge_runtime.clock import ManualClock
from edge_runtime.events import Origin
from edge_runtime.flows.outbox import FIRST_REPEAT, LONGEST_REPEAT, Outbox
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Command, CommandEnd


class Radio:
    """An outlet to devices that can be switched on and off."""

    def __init__(self) -> None:
        self.on = True
        self.sent: list[str] = []

    def deliver(self, command: Command) -> bool:
        if self.on:
            self.sent.append(command.name)
        return self.on


class House:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal()
        self.radio = Radio()
        self.outbox = Outbox(self.journal, self.radio, self.clock)

    def command(self, name: str, ttl: int = 60_000_000) -> Command:
        now = self.clock.now()
        return Command("gh-1", name, {}, now, now + ttl, Origin("app.f", 0, "cause/" + name, 0))


async def test_a_durable_command_is_sent_at_once() -> None:
    house = House()
    await house.journal.append([house.command("one"), house.command("two")])
    assert house.radio.sent == ["one", "two"]


async def test_a_command_that_is_not_durable_is_not_sent() -> None:
    house = House()
    house.journal.full = True
    try:
        await house.journal.append([house.command("one")])
    except Exception:
        assert house.radio.sent == []
    else:
        raise AssertionError("the journal was full")


async def test_commands_wait_for_a_device_and_go_out_in_order() -> None:
    house = House()
    house.radio.on = False
    await house.journal.append([house.command("one")])
    await house.journal.append([house.command("two")])
    house.radio.on = True
    house.outbox.listening("gh-2")
    assert house.radio.sent == []
    house.outbox.listening("gh-1")
    assert house.radio.sent == ["one", "two"]


async def test_it_is_sent_again_with_growing_pauses_until_there_is_a_reply() -> None:
    house = House()
    command = house.command("one", ttl=10**12)
    await house.journal.append([command])
    moments = []
    for _ in range(1000):
        house.clock.advance(250_000)
        before = len(house.radio.sent)
        await house.outbox.tick()
        if len(house.radio.sent) > before:
            moments.append(house.clock.monotonic())
    gaps = [b - a for a, b in zip([0, *moments], moments, strict=False)]
    assert gaps[0] == FIRST_REPEAT
    assert gaps[-1] == LONGEST_REPEAT
    await house.journal.append([CommandEnd(command.id, "gh-1", 0, None, 1)])
    sent = len(house.radio.sent)
    house.clock.advance(LONGEST_REPEAT * 2)
    await house.outbox.tick()
    house.outbox.listening("gh-1")
    assert len(house.radio.sent) == sent
    assert len(house.outbox) == 0


async def test_an_expired_command_ends_and_is_never_sent() -> None:
    house = House()
    house.radio.on = False
    command = house.command("one", ttl=1_000_000)
    await house.journal.append([command])
    house.clock.advance(1_000_000)
    house.radio.on = True
    house.outbox.listening("gh-1")
    await house.outbox.tick()
    assert house.radio.sent == []
    assert house.outbox.expired == 1
    (end,) = [record for record in house.journal.records() if isinstance(record, CommandEnd)]
    assert (end.command, end.status) == (command.id, 3)
    assert (await house.journal.tables()).outbox == []


async def test_what_was_under_way_before_a_restart_still_is() -> None:
    house = House()
    house.radio.on = False
    await house.journal.append([house.command("one")])
    journal = MemoryJournal(house.journal.records())
    outbox = Outbox(journal, house.radio, house.clock, (await journal.tables()).outbox)
    house.radio.on = True
    outbox.listening("gh-1")
    assert house.radio.sent == ["one"]
