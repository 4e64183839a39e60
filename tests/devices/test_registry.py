"""Devices, their keys, and who is let in."""

from __future__ import annotations

import asyncio
import re
from base64 import urlsafe_b64decode
from hashlib import sha256

import pytest

from devices import credentials
from devices.keys import MAX_KEYS
from devices.registry import DeviceInfo, Registry
from edge_runtime.clock import ManualClock
from edge_runtime.errors import EdgeError, NotFound, StorageFull
from edge_runtime.journal.interface import Listener, Tables
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.records import Device, Key, Record


async def test_a_key_is_256_bits_shown_once_and_kept_as_a_digest() -> None:
    journal = MemoryJournal()
    clock = ManualClock()
    registry = await Registry.open(journal, clock)
    text = await registry.add("greenhouse-1")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", text)
    assert journal.records() == [
        Device(
            "greenhouse-1",
            b"",
            clock.now(),
            keys=[Key("1", "token", sha256(urlsafe_b64decode(text + "=")).digest(), clock.now())],
        )
    ]
    assert registry.verify("greenhouse-1", text)
    assert registry.verify("greenhouse-1", text.encode())


async def test_what_is_not_the_key_does_not_open() -> None:
    registry = await Registry.open(MemoryJournal(), ManualClock())
    one, two = await registry.add("one"), await registry.add("two")
    assert registry.verify("one", one)
    for wrong in (two, "", one[:-1], one + "=", one.swapcase(), "*" * 43, "ä" * 43, "\udcff" * 43, b"\xff" * 43):
        assert not registry.verify("one", wrong)
    assert not registry.verify("three", one)


async def test_an_unknown_device_costs_the_same_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(ours: bytes, theirs: bytes) -> bool:
        compared.append(theirs)
        return ours == theirs

    registry = await Registry.open(MemoryJournal(), ManualClock())
    key = await registry.add("known")
    monkeypatch.setattr(credentials, "compare_digest", compare)
    for device, text in (("known", key), ("known", "not a key"), ("unknown", key), ("unknown", "not a key")):
        registry.verify(device, text)
    assert len(compared) == 4 * MAX_KEYS
    assert compared[2 * MAX_KEYS :] == [credentials.NOBODY] * 2 * MAX_KEYS


async def test_a_taken_or_impossible_id_is_refused_with_a_hint() -> None:
    registry = await Registry.open(MemoryJournal(), ManualClock())
    await registry.add("one")
    with pytest.raises(EdgeError, match="'one' already") as taken:
        await registry.add("one")
    assert "edge device rotate one" in taken.value.hint
    for impossible in ("", "a/b", "+", "a b", "-a", "x" * 129, "zürich", "a\n"):
        with pytest.raises(EdgeError, match="cannot be the id") as refused:
            await registry.add(impossible)
        assert "A-Z" in refused.value.hint


async def test_of_two_that_add_the_same_device_at_once_one_is_told() -> None:
    registry = await Registry.open(MemoryJournal(), ManualClock())
    results = await asyncio.gather(registry.add("one"), registry.add("one"), return_exceptions=True)
    (key,) = [r for r in results if isinstance(r, str)]
    assert registry.verify("one", key)


async def test_a_new_key_voids_the_old_one() -> None:
    journal = MemoryJournal()
    registry = await Registry.open(journal, ManualClock())
    old = await registry.add("one")
    _, new = await registry.rotate("one")
    assert not registry.verify("one", old)
    assert registry.verify("one", new)


async def test_a_blocked_device_stays_out_until_it_is_unblocked_and_over_a_restart() -> None:
    journal = MemoryJournal()
    registry = await Registry.open(journal, ManualClock())
    key = await registry.add("one")
    await registry.block("one")
    await registry.block("one")
    assert len(journal.records()) == 2, "blocking a blocked device changes nothing"
    again = await Registry.open(MemoryJournal(journal.records()), ManualClock())
    for each in (registry, again):
        assert not each.verify("one", key)
        await each.unblock("one")
        assert each.verify("one", key)


async def test_an_unknown_device_is_named_with_the_nearest_known_one() -> None:
    registry = await Registry.open(MemoryJournal(), ManualClock())
    await registry.add("greenhouse")
    for change in (registry.rotate, registry.block, registry.unblock):
        with pytest.raises(NotFound) as error:
            await change("grenhouse")
        assert "'greenhouse'" in error.value.hint


async def test_the_list_is_sorted_and_shows_no_secrets() -> None:
    clock = ManualClock()
    registry = await Registry.open(MemoryJournal(), clock)
    await registry.add("b")
    created = clock.now()
    clock.advance(5)
    await registry.add("a")
    await registry.block("a")
    registry.last_seen["b"] = clock.now() + 7
    a, b = registry.list()
    assert a == DeviceInfo("a", created + 5, True, None, a.keys)
    assert b == DeviceInfo("b", created, False, created + 12, b.keys)
    assert [[key.type for key in info.keys] for info in (a, b)] == [["token"]] * 2


async def test_watchers_hear_of_changes_made_elsewhere_too() -> None:
    journal = MemoryJournal()
    registry, other = await Registry.open(journal, ManualClock()), await Registry.open(journal, ManualClock())
    heard: list[str] = []
    registry.watch(heard.append)
    key = await other.add("one")
    assert registry.verify("one", key)
    await registry.rotate("one")
    assert heard == ["one", "one"]


async def test_what_could_not_be_stored_has_not_happened() -> None:
    journal = MemoryJournal()
    registry = await Registry.open(journal, ManualClock())
    journal.full = True
    with pytest.raises(StorageFull):
        await registry.add("one")
    assert registry.list() == []
    journal.full = False
    await registry.add("one")


class Changing(MemoryJournal):
    """A journal in which something happens between the call for its tables and their arrival."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: list[Record] = []

    async def tables(self) -> Tables:
        before = await super().tables()
        await self.append(self.meanwhile)
        return before


async def test_a_change_during_the_opening_is_not_missed() -> None:
    journal = Changing()
    journal.meanwhile = [Device("late", b"digest", 1)]
    registry = await Registry.open(journal, ManualClock())
    assert [d.id for d in registry.list()] == ["late"]


class TellsLate(MemoryJournal):
    """A journal that answers an append before it tells its listeners."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Listener] = []

    def listen(self, listener: Listener, *, events: bool = True) -> None:
        self.late.append(listener)


async def test_what_was_just_changed_is_known_and_stays_so_when_the_listeners_are_told() -> None:
    journal = TellsLate()
    registry = await Registry.open(journal, ManualClock())
    heard: list[str] = []
    registry.watch(heard.append)
    await registry.add("one")
    _, key = await registry.rotate("one")
    for stored in await journal.read(-1, 10):
        for listener in journal.late:
            listener([stored])
            assert registry.verify("one", key)
    assert heard == ["one", "one"]
