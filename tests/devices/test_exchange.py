"""Devices go from one gateway to another, and their boards notice nothing."""

from __future__ import annotations

import pytest

from devices.exchange import DeviceLine, Imported, KeyLine, exported, take_in
from devices.registry import Registry
from edge_runtime.clock import ManualClock
from edge_runtime.errors import EdgeError
from edge_runtime.journal.memory import MemoryJournal
from tests.devices.test_keys import EC, pem


async def registry_of(journal: MemoryJournal) -> Registry:
    return await Registry.open(journal, ManualClock())


async def test_there_and_back_and_again() -> None:
    here, journal = await registry_of(MemoryJournal()), MemoryJournal()
    there = await registry_of(journal)
    key = await here.add("one", tags={"site": "north"}, profile="iotcore")
    await here.add_public_key("one", pem(EC))
    await here.add("two")
    await here.add_oscore("two")
    await here.block("two")
    lines = list(exported(here))
    assert [key.type for key in lines[1].keys] == ["token"], "no secret leaves"
    assert await take_in(there, lines) == Imported(added=2)
    assert list(exported(there)) == lines
    assert there.verify("one", key)
    stored = len(journal.records())
    assert await take_in(there, lines) == Imported(unchanged=2)
    assert len(journal.records()) == stored, "doing it again writes nothing"
    _, context = await there.add_oscore("one")
    await here.tag("one", {"site": "south"})
    assert await take_in(there, exported(here)) == Imported(changed=1, unchanged=1)
    assert there.info("one").tags == {"site": "south"}
    assert there.oscore(context.recipient_id)[1] == context


def digest(id: str, n: int = 1, type: str = "token") -> KeyLine:
    return KeyLine(id, type, bytes([n]) * 32, 1)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (DeviceLine("a/b", 1), "cannot be the id"),
        (DeviceLine("x", 1, profile="no"), "not a profile"),
        (DeviceLine("x", 1, tags={"": "x"}), "name of a tag"),
        (DeviceLine("x", -1), "no moment"),
        (DeviceLine("x", 1, [KeyLine("1", "token", b"short", 1)]), "not a SHA-256"),
        (DeviceLine("x", 1, [KeyLine("1", "es256", b"no key", 1)]), "not a public key"),
        (DeviceLine("x", 1, [KeyLine("1", "oscore", b"", 1)]), "cannot be imported"),
        (DeviceLine("x", 1, [digest("one")]), "id of a key"),
        (DeviceLine("x", 1, [digest("1"), digest("1", 2)]), "same id"),
        (DeviceLine("x", 1, [digest(str(n), n) for n in range(4)]), "4 keys"),
        (DeviceLine("x", 1, [digest("1", 9, "x509")]), "same certificate"),
        (DeviceLine("good", 1), "was there before"),
    ],
)
async def test_one_bad_line_and_nothing_is_imported(line: DeviceLine, why: str) -> None:
    journal = MemoryJournal()
    with pytest.raises(EdgeError, match=why) as refused:
        await take_in(await registry_of(journal), [DeviceLine("good", 1, [digest("1", 9, "x509")]), line])
    assert str(refused.value).startswith("line 2: ")
    assert journal.records() == []
