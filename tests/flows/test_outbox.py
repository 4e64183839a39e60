"""Commands on their way: sent when durable, again until answered, never after they have expired."""

from __future__ import annotations

import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.events import Origin
from edge_runtime.flows.outbox import FIRST_REPEAT, LONGEST_REPEAT, MAX_UNDER_WAY, REMIND, WINDOW, Outbox
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

    def command(self, name: str, ttl: int = 60_000_000, key: str = "", device: str = "gh-1") -> Command:
        now = self.clock.now()
        origin = Origin("app.f", 0, f"{device}/cause/{name}", 0)
        return Command(device, name, {}, now, now + ttl, origin, key=key)


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


def ends(journal: MemoryJournal) -> list[tuple[bytes, int]]:
    return [(record.command, record.status) for record in journal.records() if isinstance(record, CommandEnd)]


async def test_the_newest_command_with_a_key_replaces_the_older_ones() -> None:
    house = House()
    house.radio.on = False
    on, off, other = house.command("on", key="fan"), house.command("off", key="fan"), house.command("open")
    await house.journal.append([on, other])
    await house.journal.append([off])
    house.radio.on = True
    house.outbox.listening("gh-1")
    assert house.radio.sent == ["open", "off"], "what was replaced is not delivered, though its end is not durable yet"
    await house.outbox.tick()
    assert ends(house.journal) == [(on.id, 4)]
    assert (len(house.outbox), house.outbox.replaced) == (2, 1)
    assert [command.name for command in (await house.journal.tables()).outbox] == ["open", "off"]


async def test_of_commands_that_become_durable_together_only_the_newest_is_sent() -> None:
    house = House()
    await house.journal.append([house.command("on", key="fan"), house.command("off", key="fan")])
    assert house.radio.sent == ["off"]


async def test_keys_of_different_devices_are_different() -> None:
    house = House()
    await house.journal.append([house.command("on", key="fan"), house.command("on", key="fan", device="gh-2")])
    assert house.radio.sent == ["on", "on"]
    await house.outbox.tick()
    assert ends(house.journal) == []


async def test_a_replaced_command_stays_so_over_a_crash() -> None:
    house = House()
    house.radio.on = False
    on, off = house.command("on", key="fan"), house.command("off", key="fan")
    await house.journal.append([on, off])
    journal = MemoryJournal(house.journal.records())
    outbox = Outbox(journal, house.radio, house.clock, (await journal.tables()).outbox)
    house.radio.on = True
    outbox.listening("gh-1")
    assert house.radio.sent == ["off"]
    await outbox.tick()
    assert ends(journal) == [(on.id, 4)]


async def test_ends_of_replaced_commands_wait_for_room_in_the_journal() -> None:
    house = House()
    on, off = house.command("on", key="fan"), house.command("off", key="fan")
    await house.journal.append([on, off])
    house.journal.full = True
    await house.outbox.tick()
    assert (ends(house.journal), len(house.outbox)) == ([], 2)
    house.journal.full = False
    await house.outbox.tick()
    await house.outbox.tick()
    assert ends(house.journal) == [(on.id, 4)]


async def test_a_reply_to_a_replaced_command_stands() -> None:
    house = House()
    on, off = house.command("on", key="fan"), house.command("off", key="fan")
    await house.journal.append([on, off])
    await house.journal.append([CommandEnd(on.id, "gh-1", 0, None, 1)])
    await house.outbox.tick()
    assert ends(house.journal) == [(on.id, 0)]
    await house.journal.append([CommandEnd(off.id, "gh-1", 0, None, 1)])
    await house.journal.append([house.command("third", key="fan")])
    await house.outbox.tick()
    assert len(ends(house.journal)) == 2, "a key whose command has ended replaces nothing"


async def test_only_so_many_are_in_the_air_and_the_next_goes_out_when_one_ends() -> None:
    house = House()
    house.radio.on = False
    commands = [house.command(str(number)) for number in range(WINDOW + 3)]
    await house.journal.append(commands)
    house.radio.on = True
    house.outbox.listening("gh-1")
    first = [command.name for command in commands[:WINDOW]]
    assert house.radio.sent == first
    await house.journal.append([CommandEnd(commands[5].id, "gh-1", 0, None, 1)])
    assert house.radio.sent == [*first, str(WINDOW)]
    await house.journal.append([house.command("newest")])
    assert house.radio.sent == [*first, str(WINDOW)], "there is no room, and it is not its turn"
    house.outbox.listening("gh-1")
    assert house.radio.sent[WINDOW + 1 :] == [*first[:5], *first[6:], str(WINDOW)]


async def test_what_is_replaced_or_expires_in_the_air_makes_room() -> None:
    house = House()
    keyed, short = house.command("on", key="fan"), house.command("short", ttl=1_000_000)
    await house.journal.append([keyed, short, *(house.command(str(number)) for number in range(WINDOW))])
    assert len(house.radio.sent) == WINDOW
    await house.journal.append([house.command("off", key="fan")])
    assert house.radio.sent[WINDOW:] == [str(WINDOW - 2)]
    house.clock.advance(1_000_000)
    await house.outbox.tick()
    assert house.radio.sent[WINDOW:] == [str(WINDOW - 2), str(WINDOW - 1)]


async def test_a_connection_that_was_busy_is_tried_again() -> None:
    house = House()
    house.radio.on = False
    await house.journal.append([house.command("one")])
    house.radio.on = True
    await house.outbox.tick()
    assert house.radio.sent == ["one"]


async def test_beyond_the_bound_the_oldest_are_replaced_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    house = House()
    house.radio.on = False
    commands = [house.command(str(number), key="fan" * (number == 0)) for number in range(MAX_UNDER_WAY + 2)]
    for start in range(0, len(commands), 500):
        await house.journal.append(commands[start : start + 500])
    # After a crash as well: the ends are not durable yet.
    journal = MemoryJournal(house.journal.records())
    outbox = Outbox(journal, house.radio, house.clock, (await journal.tables()).outbox)
    await outbox.tick()
    assert ends(journal) == [(commands[0].id, 4), (commands[1].id, 4)]
    assert len(outbox) == MAX_UNDER_WAY
    assert [record.getMessage() for record in caplog.records] == [
        "gh-1 has more than 1000 commands under way: the oldest 2 were ended as replaced"
    ]
    await journal.append([house.command("more", key="fan")])
    await outbox.tick()
    assert len(caplog.records) == 1, "not again so soon"
    house.clock.advance(REMIND - 1_000_000)
    await outbox.tick()
    assert len(caplog.records) == 1
    assert outbox.replaced == 3
