"""Backup, restore and salvage of a whole gateway: what is saved runs again as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devices.release_store import ReleaseStore, new_package
from devices.releases import manifest_of
from edge_runtime.errors import EdgeError
from edge_runtime.planes import backups
from tests.ingress.mqtt_house import event_packet
from tests.integration.test_gateway import GOOD, Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path / "first")
    await site.start()
    yield site
    await site.stop()


async def fill(site: Site, count: int) -> None:
    device = await site.device("d")
    for seq in range(count):
        device.send(event_packet(seq, {"n": seq}))
        assert (await device.receive())[:2] == b"\x40\x02"


async def check(folder: Path, version: str, count: int) -> None:
    """A gateway on this folder holds the events, the app, the device and the flow's progress."""
    other = Site(folder)
    await other.start()
    assert len(await other.lines("event")) == count
    assert [row.version for row in other.gateway.apps()] == [version]
    assert [row.device for row in other.gateway.devices()] == ["d"]
    commands = await other.until("command", lambda found: len(found) >= count)
    assert [line.data["n"] for line in commands] == list(range(count)), "nothing was worked on twice"
    await other.stop()


async def test_a_running_gateway_is_saved_and_restored(site: Site, tmp_path: Path) -> None:
    version = await site.deploy(GOOD)
    await fill(site, 20)
    await site.until("command", lambda found: len(found) == 20)
    store, files = site.gateway.ota.store, {"main.py": b"print(1)\n"}
    release = store.take_in(new_package(files, manifest_of("greenhouse", "1.0", files)), 1)
    saved = await site.gateway.backup(tmp_path / "backup")
    assert saved.records >= 40
    with pytest.raises(EdgeError, match="there already"):
        await site.gateway.backup(tmp_path / "backup")
    restored = await asyncio.to_thread(backups.restore, tmp_path / "backup", tmp_path / "second" / "data")
    assert restored.records == saved.records
    await check(tmp_path / "second", version, 20)
    second = ReleaseStore(tmp_path / "second" / "data" / "releases")
    assert second.all() == [release]
    assert second.content(release.id, release.manifest.files[0].digest) == files["main.py"]
    assert second.own_public() != store.own_public(), "a backup lets nobody sign"
    with pytest.raises(EdgeError, match="already"):
        backups.restore(tmp_path / "backup", tmp_path / "second" / "data")


async def test_a_stopped_gateway_is_saved_and_a_damaged_one_salvaged(tmp_path: Path) -> None:
    site = Site(tmp_path / "first")
    await site.start()
    version = await site.deploy(GOOD)
    await fill(site, 20)
    await site.until("command", lambda found: len(found) == 20)
    await site.stop()
    data = tmp_path / "first" / "data"
    backups.backup_stopped(data, tmp_path / "backup")
    backups.restore(tmp_path / "backup", tmp_path / "second" / "data")
    await check(tmp_path / "second", version, 20)

    assert backups.salvage(data, tmp_path / "sound", 1).ok
    database = data / "journal.db"
    content = bytearray(database.read_bytes())
    place = content.index(b"climate", len(content) // 2)
    content[place : place + 7] = b"garbage"
    database.write_bytes(content)
    report = backups.salvage(data, tmp_path / "saved", 1)
    assert not report.ok
    assert report.damage
    backups.restore(tmp_path / "saved", tmp_path / "third" / "data")
    third = Site(tmp_path / "third")
    await third.start()
    assert 0 < len(await third.lines("event")) <= 20
    assert await third.lines("gap")
    await third.stop()


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeError, match="not a backup"):
        backups.restore(tmp_path, tmp_path / "data")
    with pytest.raises(EdgeError, match="no journal"):
        backups.backup_stopped(tmp_path, tmp_path / "backup")
