"""How fast a device may send: in virtual time, by counts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.registry import Registry
from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError
from edge_runtime.events import Event
from edge_runtime.ingress import boots, schemas, skew
from edge_runtime.ingress.admission import Admission, Verdict
from edge_runtime.ingress.allowances import PaceRule, allowance_of
from edge_runtime.ingress.boots import Boots
from edge_runtime.ingress.pace import SECOND, Allowance, Pace
from edge_runtime.ingress.skew import Skews
from edge_runtime.journal import seen
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import DeadLetter, Device
from edge_runtime.wire import Envelope, Reading
from tests.ingress.mqtt_house import House, event_packet, event_payload, eventually

NOW = 1_795_000_000_000_000


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 5000)), min_size=1, max_size=200),
    st.booleans(),
)
def test_never_more_than_the_allowance_in_any_span_of_time(
    rate: int, sends: list[tuple[int, int]], polite: bool
) -> None:
    clock = ManualClock()
    allowance = Allowance(rate, 10_000, SECOND)
    pace = Pace(clock, lambda _device: allowance)
    taken: list[tuple[int, int]] = []
    for pause, size in sends:
        clock.advance(pause)
        if polite:
            wait = pace.spend("d", size)
            taken.append((clock.monotonic(), size))
            clock.advance(wait)  # as a door does
        elif pace.take("d", size):
            taken.append((clock.monotonic(), size))
    for i, (start, _) in enumerate(taken):
        for j in range(i, len(taken)):
            span = (taken[j][0] - start) / SECOND
            count, volume = j - i + 1, sum(size for _, size in taken[i:j])
            assert count <= rate * (span + 1) + 2
            assert volume <= 10_000 * (span + 1) + 5000 + 1  # one message may go beyond, before it is paid for


@given(st.integers(1, 500), st.integers(1, 300))
def test_who_keeps_to_the_pace_is_never_held_up(rate: int, count: int) -> None:
    clock = ManualClock()
    pace = Pace(clock, lambda _device: Allowance(rate, 0, SECOND))
    for _ in range(count):
        assert pace.take("d", 10_000)
        clock.advance(-(-SECOND // rate))


def test_a_flood_takes_no_more_than_its_share_and_the_others_lose_nothing() -> None:
    clock = ManualClock()
    pace = Pace(clock, lambda _device: Allowance(100, 0, 5 * SECOND))
    counts = {"flood": 0, "a": 0, "b": 0}
    for _ in range(60_000):  # a minute, millisecond by millisecond
        clock.advance(1000)
        counts["flood"] += sum(pace.take("flood", 100) for _ in range(20))
        if clock.monotonic() % 20_000 == 0:  # 50 a second
            counts["a"] += pace.take("a", 100)
            counts["b"] += pace.take("b", 100)
    assert counts["a"] == counts["b"] == 3000
    assert 6000 <= counts["flood"] <= 60 * 100 + 500 + 1


def test_what_is_given_up_is_counted_and_silent_devices_are_forgotten() -> None:
    clock = ManualClock()
    pace = Pace(clock, lambda device: Allowance(1 if device == "d" else 0, 0, SECOND))
    assert [pace.take_or_drop("d", 1) for _ in range(4)] == [True, True, False, False]
    assert all(pace.take_or_drop("free", 1) for _ in range(100))
    assert pace.dropped == {"d": 2}
    pace.forget_full()
    assert not pace.take("d", 1), "its debt is not forgotten with others"
    clock.advance(10 * SECOND)
    pace.forget_full()
    assert pace.take("d", 1)


async def test_the_door_holds_back_a_flood_without_losing_a_message() -> None:
    house = await House.build()
    house.admission.pace = Pace(house.clock, lambda _device: Allowance(10, 0, SECOND))
    other_key = await house.registry.add("e")
    try:
        flood, other = await house.device(), await house.device("e", other_key)
        flood.send(*(event_packet(seq) for seq in range(40)))
        await eventually(lambda: len(house.door.throttled) == 1)
        flood.send(*(event_packet(seq) for seq in range(40, 80)))
        acknowledged = [await flood.receive() for _ in range(40)]
        other.send(event_packet(0, device="e"))
        assert await other.receive() == b"\x40\x02\x00\x01", "the others are served meanwhile"
        house.pass_seconds(2)
        assert house.door.throttled
        assert house.door.counters.messages == 41
        house.pass_seconds(1)
        acknowledged += [await flood.receive() for _ in range(40)]
        assert len(set(acknowledged)) == 80
        assert {event.seq for event in house.journal.events if event.device == "d"} == set(range(80))
        assert house.door.counters.slowed == 2
    finally:
        await house.tear_down()


async def test_qos_0_beyond_the_pace_is_given_up_and_that_is_durable_once_a_minute() -> None:
    house = await House.build()
    house.admission.pace = Pace(house.clock, lambda _device: Allowance(10, 0, SECOND))
    try:
        flood = await house.device()
        flood.send(*(event_packet(seq, qos=0) for seq in range(40)))
        assert await flood.ping() == b"\xd0\0"
        await eventually(lambda: len(house.journal.events) == 11)
        assert house.door.counters.throttled == 29
        assert await house.admission.keep() == []
        await house.admission.keep()
        letters = [r for r in house.journal.inner.records() if isinstance(r, DeadLetter)]
        assert [(letter.reason, letter.device, letter.detail.split()[0]) for letter in letters] == [
            ("throttled", "d", "29")
        ]
    finally:
        await house.tear_down()


async def test_a_full_journal_does_not_make_the_count_forgotten() -> None:
    clock = ManualClock(NOW)
    journal = MemoryJournal()
    admission = await Admission.open(journal, await Registry.open(journal, clock), clock, print)
    admission.pace.dropped = {"d": 3}
    journal.full = True
    await admission.keep()
    assert admission.pace.dropped == {"d": 3}


# Boots


def test_boots_are_bounded_and_what_runs_goes_on() -> None:
    clock = ManualClock()
    limit = Boots(clock)
    numbers = [n.to_bytes(8) for n in range(boots.BURST + 2)]
    assert all(limit.admit("d", boot) for boot in numbers[: boots.BURST])
    assert not limit.admit("d", numbers[-1])
    assert limit.admit("d", numbers[boots.BURST - 1]), "the one that runs"
    assert limit.admit("e", numbers[-1])
    clock.advance(boots.INTERVAL)
    assert limit.admit("d", numbers[-1])


async def test_events_of_one_boot_too_many_are_dead_letters_and_acknowledged() -> None:
    clock = ManualClock(NOW)
    journal = MemoryJournal()
    admission = await Admission.open(journal, await Registry.open(journal, clock), clock, print)
    verdicts: list[Verdict] = []
    for n in range(boots.BURST + 1):
        admission.submit_decoded("d", Envelope(n.to_bytes(8), [Reading(0, "k", None, 0, n)]), verdicts.append)
    async with asyncio.timeout(10):
        while len(verdicts) <= boots.BURST:
            await asyncio.sleep(0)
    assert verdicts.count(Verdict.ACCEPTED) == boots.BURST
    assert verdicts.count(Verdict.DEAD) == 1
    letter = journal.records()[-1]
    assert isinstance(letter, DeadLetter)
    assert letter.reason == "boots"
    assert letter.event is not None


async def test_random_sequences_are_told_as_dead_letters() -> None:
    clock = ManualClock(NOW)
    journal = MemoryJournal()
    admission = await Admission.open(journal, await Registry.open(journal, clock), clock, print)
    verdicts: list[Verdict] = []
    for n in range(seen.MAX_INTERVALS + 1):
        admission.submit_decoded("d", Envelope(b"8 bytes.", [Reading(7 * n, "k", None, 0, n)]), verdicts.append)
        await asyncio.sleep(0)
    await eventually(lambda: len(verdicts) == seen.MAX_INTERVALS + 1)
    assert verdicts[-1] is Verdict.DEAD
    assert set(verdicts[:-1]) == {Verdict.ACCEPTED}


# Clocks


def test_the_skew_is_the_median_of_the_newest_packets() -> None:
    skews = Skews(10 * SECOND)
    for _ in range(skew.WINDOW - 1):
        skews.note("d", 20 * SECOND)
    assert skews.of("d") is None, "too few to say"
    assert skews.of("nobody") is None
    skews.note("d", 10**12)
    assert skews.of("d") == 20 * SECOND, "a single late one does not count"
    assert skews.news() == {"d": 20 * SECOND}
    assert skews.news() == {}, "told once"
    for _ in range(skew.WINDOW):
        skews.note("d", -SECOND)
    assert (skews.off(), skews.of("d")) == ({}, -SECOND)
    assert skews.news() == {}
    for _ in range(skew.WINDOW):
        skews.note("d", -3600 * SECOND)
    assert skews.news() == {"d": -3600 * SECOND}, "told again after it was right"
    skews.forget("d")
    assert skews.of("d") is None
    assert Skews(0).off() == {}


async def test_a_wrong_clock_is_reported_once_and_events_keep_their_time() -> None:
    clock = ManualClock(NOW + 3_600 * SECOND)
    journal = MemoryJournal()
    skews = Skews(300 * SECOND)
    admission = await Admission.open(journal, await Registry.open(journal, clock), clock, print, skews=skews)
    for seq in range(skew.WINDOW):
        await admission.admit("d", "climate", event_payload(seq))
    (line,) = await admission.keep()
    assert line.startswith("the clock of device 'd' seems to be 3600 s behind")
    assert await admission.keep() == []
    assert [r.time - NOW for r in journal.records() if isinstance(r, Event)] == list(range(skew.WINDOW))


# Schemas

CLIMATE = {
    "type": "object",
    "properties": {"temperature": {"type": "number", "minimum": -60}},
    "required": ["temperature"],
}


def written(folder: Path, schema: object) -> Path:
    path = folder / "climate.schema.json"
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema, indent=2))
    return path


async def test_invalid_events_become_dead_letters_and_the_rest_of_a_batch_is_kept(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    journal = MemoryJournal()
    checks = schemas.load({"climate": written(tmp_path, CLIMATE)})
    admission = await Admission.open(journal, await Registry.open(journal, clock), clock, print, schemas=checks)
    good, bad, other = [0, "climate", {"temperature": 20}], [1, "climate", {"temperature": "hot"}], [2, "x", "any"]
    batch = cbor2.dumps({0: b"8 bytes.", 1: 0, 2: NOW, 5: [good, bad, other]})
    assert await admission.admit("d", None, batch) is Verdict.ACCEPTED
    kept = [r for r in journal.records() if not isinstance(r, Device)]
    assert [type(r) for r in kept] == [Event, DeadLetter, Event]
    letter = kept[1]
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.detail) == ("invalid", '/temperature: "hot" is not of type "number"')
    assert letter.event is not None
    assert letter.event.seq == 1
    assert await admission.admit("d", "climate", event_payload(9, {"t": 1})) is Verdict.DEAD
    odd = {"temperature": 1, "raw": b"\0"}
    assert await admission.admit("d", "climate", event_payload(10, odd)) is Verdict.ACCEPTED, "bytes where all may be"
    assert await admission.admit("d", "climate", event_payload(11, {**odd, 5: 6})) is Verdict.DEAD, "no name in JSON"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (
            '{"type": "object",\n "properties": {\n  "t": {"type": "nmber"}}}',
            "line 3, at /properties/t/type: not a JSON",
        ),
        ('{\n"type": }', "line 2: not readable as JSON"),
        ({"$ref": "https://example.org/other.json"}, "not a JSON Schema"),
        ({"pattern": "("}, "not a JSON Schema"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_a_broken_schema_is_refused_with_file_and_line(tmp_path: Path, schema: object, message: str) -> None:
    path = written(tmp_path, schema)
    with pytest.raises(ConfigError) as caught:
        schemas.load({"climate": path})
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_schema_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        schemas.load({"climate": tmp_path / "none.json"})


def test_the_first_rule_that_a_device_fits_counts_and_new_tags_at_once() -> None:
    clock = ManualClock()
    tags: dict[str, dict[str, str]] = {"cam-1": {"type": "camera"}}
    rules = [
        PaceRule((), {"type": "camera"}, Allowance(5, 0, SECOND)),
        PaceRule(("log-*", "cam-?"), {}, Allowance(2, 0, SECOND)),
    ]
    find = allowance_of(rules, Allowance(1, 0, SECOND), lambda device: tags.get(device, {}))
    found = {device: find(device).rate for device in ("cam-1", "cam-2", "cam-10", "log-", "Log-1")}
    assert found == {"cam-1": 5, "cam-2": 2, "cam-10": 1, "log-": 2, "Log-1": 1}
    pace = Pace(clock, find)

    def sent() -> int:
        return sum(pace.take("cam-2", 1) for _ in range(20))

    assert sent() == 3
    tags["cam-2"] = {"type": "camera", "room": "a"}
    assert sent() == 0
    pace.changed("cam-2")
    assert not pace.take("cam-2", 1), "what was sent before stays counted"
    clock.advance(2 * SECOND)
    assert sent() == 6
    pace.changed("never heard of")
