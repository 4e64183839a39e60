"""Configurations and states of devices: versions, limits, acknowledgements, over a restart and through real storage."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from devices.registry import Registry
from devices.twin import BYTES, MAX_CONTENT, VERSIONS, Content, Index, Twin, json_content, reported
from edge_runtime.clock import ManualClock
from edge_runtime.errors import EdgeError, NotFound, StorageFull
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.sqlite.client import SqliteJournal
from edge_runtime.journal.sqlite.store import Store


async def twin_of(journal: Journal, *devices: str) -> Twin:
    clock = ManualClock()
    registry = await Registry.open(journal, clock)
    for device in devices:
        await registry.add(device)
    return Twin(journal, registry, clock)


async def test_versions_rise_and_the_last_ten_are_kept() -> None:
    twin = await twin_of(MemoryJournal(), "one", "two")
    heard: list[str] = []
    twin.watch(heard.append)
    assert await twin.config("one") is None
    for n in range(1, VERSIONS + 4):
        assert await twin.set_config("one", json_content({"n": n})) == n
    assert heard == ["one"] * (VERSIONS + 3)
    assert [kept.number for kept in (await twin.index("one")).configs] == list(range(4, VERSIONS + 4))
    assert await twin.config("one") == (13, json_content({"n": 13}))
    assert await twin.config("one", 4) == (4, json_content({"n": 4}))
    assert await twin.config("one", 3) is None
    assert await twin.config("two") is None


async def test_what_the_device_says_of_a_version_is_kept_once() -> None:
    journal = MemoryJournal()
    twin = await twin_of(journal, "one")
    await twin.set_config("one", json_content(1))
    await twin.set_config("one", json_content(2))
    assert not await twin.acknowledge("one", 3), "it was never given"
    assert not await twin.acknowledge("one", 0)
    assert await twin.acknowledge("one", 1)
    assert await twin.acknowledge("one", 2, True, "no such pin" + "!" * 500)
    stored = len(journal.records())
    assert not await twin.acknowledge("one", 1)
    assert not await twin.acknowledge("one", 2, True, "no such pin" + "!" * 500)
    assert len(journal.records()) == stored
    index = await twin.index("one")
    assert (index.version, index.acknowledged, index.rejected) == (2, 1, 2)
    assert index.detail.startswith("no such pin")
    assert len(index.detail) == 200


async def test_everything_outlives_a_restart_and_a_snapshot(tmp_path: Path) -> None:
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    twin = await twin_of(journal, "one")
    blob = Content(BYTES, bytes(range(256)) * (MAX_CONTENT // 256))
    for _ in range(VERSIONS + 1):
        await twin.set_config("one", blob)
        await twin.report("one", reported({"fan": True, "raw": b"\xff"}))
    await twin.acknowledge("one", 11)
    before = await twin.index("one")
    await journal.close()
    # The snapshot, which is written anew every 4,096 records, holds nothing of what configurations say.
    store = Store(tmp_path / "journal.db")
    (size,) = store._db.execute("SELECT length(tables) FROM snapshot").fetchall()[0]
    (rows,) = store._db.execute("SELECT count(*) FROM state").fetchall()[0]
    store.close()
    assert isinstance(size, int)
    assert size < 1000
    assert rows == 2 * VERSIONS + 1, "what is too old is gone"
    journal = await SqliteJournal.open(tmp_path / "journal.db")
    registry = await Registry.open(journal, ManualClock())
    again = Twin(journal, registry, ManualClock())
    assert await again.index("one") == before
    assert await again.config("one") == (11, blob)
    ((_, newest), *_) = await again.states("one")
    assert newest.value() == {"fan": True, "raw": b"\xff"}
    await again.forget("one")
    assert await again.index("one") == Index()
    assert await journal.state_keys("$twin", "", 10) == []
    await journal.close()


async def test_changes_at_once_take_their_turns() -> None:
    twin = await twin_of(MemoryJournal(), "one")
    versions = await asyncio.gather(*(twin.set_config("one", json_content(n)) for n in range(5)))
    assert sorted(versions) == [1, 2, 3, 4, 5]
    await asyncio.gather(*(twin.report("one", reported(n)) for n in range(12)))
    assert [content.value() for _, content in await twin.states("one")] == list(range(11, 1, -1))


@pytest.mark.parametrize(
    "content",
    [
        Content(BYTES, bytes(MAX_CONTENT + 1)),
        Content("yaml", b"a: 1"),
        Content("json", b"{"),
        json_content(1 << 70),
        Content("json", b"[" * 5000 + b"]" * 5000),
        Content("cbor", b"\xc1\x00"),
    ],
)
async def test_what_cannot_be_kept_or_sent_is_refused(content: Content) -> None:
    journal = MemoryJournal()
    twin = await twin_of(journal, "one")
    stored = len(journal.records())
    with pytest.raises(EdgeError):
        await twin.set_config("one", content)
    assert len(journal.records()) == stored
    with pytest.raises(NotFound):
        await twin.set_config("nobody", json_content(1))


async def test_what_could_not_be_stored_has_not_happened() -> None:
    journal = MemoryJournal()
    twin = await twin_of(journal, "one")
    await twin.set_config("one", json_content(1))
    journal.full = True
    with pytest.raises(StorageFull):
        await twin.set_config("one", json_content(2))
    with pytest.raises(StorageFull):
        await twin.report("one", reported(1))
    journal.full = False
    assert (await twin.index("one")).version == 1
    assert (await twin.index("one")).states == []
    assert await twin.set_config("one", json_content(3)) == 2
