"""Updates over the air, the gateway's side: who is offered what, what is kept, and that each gets only its own."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import cbor2
import pytest

from devices.ota import AGAIN, Ota
from devices.registry import Registry
from devices.release_store import ReleaseStore, new_package
from devices.releases import manifest_of
from devices.rollouts import DONE, PAUSED, Rollout, Stand
from edge_runtime import wire_ota
from edge_runtime.clock import ManualClock
from edge_runtime.errors import EdgeError, NotFound, StorageFull, WireError
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.memory import MemoryJournal
from edge_runtime.journal.sqlite.client import SqliteJournal

FILES = {"main.py": b"print(1)\n", "lib/fan.py": b"# a fan\n"}
DEVICES = ["a", "b", "c"]


class Desk:
    """What the gateway knows of updates, over a journal, with devices that hear what they are told."""

    def __init__(self, journal: Journal, folder: Path) -> None:
        self.journal = journal
        self.clock = ManualClock()
        self.store = ReleaseStore(folder / "releases")
        self.said: list[tuple[str, str, Any]] = []
        self.log: list[str] = []
        self.online = set(DEVICES)

    async def open(self) -> Desk:
        self.registry = await Registry.open(self.journal, self.clock)
        for device in DEVICES:
            if device not in self.registry:
                await self.registry.add(device)
        self.ota = await Ota.open(self.journal, self.registry, self.clock, self.store, self.log.append)
        self.ota.tell = self._tell
        self.ota.connected = lambda: self.online
        return self

    def _tell(self, device: str, word: str, payload: bytes) -> bool:
        if device in self.online:
            self.said.append((device, word, cbor2.loads(payload)))
        return device in self.online

    def heard(self) -> list[tuple[str, str, Any]]:
        """What was said since the last time."""
        said, self.said = self.said, []
        return said

    def release(self, version: str = "1.0", **options: Any) -> str:
        manifest = manifest_of("greenhouse", version, FILES, **options)
        return self.store.take_in(new_package(FILES, manifest), self.clock.now()).id

    async def roll_out(self, version: str = "1.0", devices: list[str] = DEVICES, **options: Any) -> Rollout:
        made = await self.ota.roll_out(self.release(version), devices, options.pop("first", ["a"]), **options)
        await self.ota.look()
        return made

    async def report(self, device: str, state: int = wire_ota.IDLE, running: str = "", number: int = 0) -> bool:
        form: dict[int, Any] = {1: state, 4: "rp2", 5: number}
        if running:
            form[0] = bytes.fromhex(running)
        return await self.ota.report(device, cbor2.dumps(form))

    async def ask(self, device: str, digest: str, offset: int = 0, length: int = 1000) -> list[tuple[str, str, Any]]:
        self.heard()
        self.ota.ask(device, cbor2.dumps({0: bytes.fromhex(digest), 1: offset, 2: length}))
        return self.heard()


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    return await Desk(MemoryJournal(), tmp_path).open()


async def test_only_who_has_its_turn_is_offered_it(desk: Desk) -> None:
    rollout = await desk.roll_out()
    ((device, word, offer),) = desk.heard()
    assert (device, word, offer[0].hex(), offer[2]) == ("a", "offer", rollout.release, rollout.number)
    manifest = desk.store.content(rollout.release, rollout.release)
    assert offer[1] == len(manifest)
    record = desk.registry.record("a")
    assert record is not None
    assert offer[3] == [wire_ota.prove(record.all_keys[0].data, rollout.number, offer[0], "a")]
    file = next(file for file in desk.store.find("greenhouse").manifest.files if file.path == "main.py")
    assert await desk.ask("a", rollout.release, 4, 10) == [("a", "data", {0: offer[0], 1: 4, 2: manifest[4:14]})]
    ((_, _, piece),) = await desk.ask("a", file.digest)
    assert piece[2] == FILES["main.py"]
    assert await desk.ask("b", file.digest) == [("b", "offer", {})], "it is not its turn"
    ((_, _, none),) = await desk.ask("a", "00" * 32)
    assert none[2] == b"", "there is no such file in its release"
    other = desk.store.take_in(
        new_package({"main.py": b"secret"}, manifest_of("other", "1", {"main.py": b"secret"})), 0
    )
    ((_, _, none),) = await desk.ask("a", other.manifest.files[0].digest)
    assert none[2] == b"", "what is in another release is not for it"
    assert desk.ota.pieces == 4


async def test_step_by_step_to_its_end(desk: Desk) -> None:
    rollout = await desk.roll_out()
    await desk.report("a", wire_ota.FETCHING, number=rollout.number)
    await desk.report("a", wire_ota.TRIAL, rollout.release, rollout.number)
    await desk.ota.look()
    assert {device for device, _, _ in desk.heard()} == {"a"}
    assert await desk.ask("a", rollout.release) == [("a", "offer", {})], "on trial it fetches nothing"
    await desk.report("a", running=rollout.release, number=rollout.number)
    desk.heard()
    await desk.ota.look()
    assert sorted(device for device, word, _ in desk.heard() if word == "offer") == ["b", "c"]
    desk.online.discard("c")
    for device in ("b", "c"):
        await desk.report(device, running=rollout.release, number=rollout.number)
    await desk.ota.look()
    assert desk.ota.rollout(0).state == DONE
    assert desk.log == [f"the roll-out {rollout.number} of greenhouse 1.0: done"]
    assert await desk.ask("b", rollout.release) == [("b", "offer", {})]


async def test_a_failure_pauses_it_and_stops_who_fetches(desk: Desk) -> None:
    rollout = await desk.roll_out(first=["a", "b"])
    await desk.report("b", wire_ota.FETCHING, number=rollout.number)
    await desk.report("a", wire_ota.ROLLED_BACK, number=rollout.number)
    await desk.ota.look()
    assert desk.ota.rollout(rollout.number).state == PAUSED
    assert await desk.ask("b", rollout.release) == [("b", "offer", {})]
    await desk.ota.resume(rollout.number)
    await desk.ota.look()
    assert [(device, bool(offer)) for device, _, offer in desk.heard()] == [("b", True)], "not again who has failed"
    await desk.ota.abort(rollout.number)
    assert desk.heard() == [("b", "offer", {})]


async def test_a_repeated_report_is_not_stored_again(desk: Desk) -> None:
    await desk.roll_out()
    assert await desk.report("a", wire_ota.FETCHING, number=1)
    stored = len(desk.journal.records())  # type: ignore[attr-defined]
    assert not await desk.report("a", wire_ota.FETCHING, number=1)
    assert len(desk.journal.records()) == stored  # type: ignore[attr-defined]


async def test_an_offer_that_got_lost_comes_again(desk: Desk) -> None:
    await desk.roll_out()
    assert len(desk.heard()) == 1
    await desk.ota.look()
    assert desk.heard() == []
    desk.clock.advance(AGAIN + 1)
    await desk.ota.look()
    assert len(desk.heard()) == 1
    await desk.report("a")
    assert len(desk.heard()) == 1, "a board that has connected again is told at once"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_after_a_start_it_is_as_it_was(tmp_path: Path, kind: str) -> None:
    journal: Journal = MemoryJournal() if kind == "memory" else await SqliteJournal.open(tmp_path / "journal.db")
    desk = await Desk(journal, tmp_path).open()
    rollout = await desk.roll_out()
    await desk.report("a", running=rollout.release, number=rollout.number)
    await desk.ota.look()
    await desk.report("b", wire_ota.FETCHING, number=rollout.number)
    await desk.ota.pause(rollout.number)
    before = desk.ota.rollout(rollout.number)
    if isinstance(journal, SqliteJournal):
        await journal.close()
        journal = await SqliteJournal.open(tmp_path / "journal.db")
    again = await Desk(journal, tmp_path).open()
    assert again.ota.rollout(rollout.number) == before
    assert again.ota.stand(before, "a") is Stand.RUNS
    assert again.ota.stand(before, "b") is Stand.FETCHING
    await again.ota.resume(rollout.number)
    ((_, _, piece),) = await again.ask("b", rollout.release, 0, 4)
    assert piece[2] == b"edge"
    if isinstance(journal, SqliteJournal):
        await journal.close()


async def test_what_could_not_be_stored_is_not_acted_upon(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = await desk.roll_out()
    await desk.registry.add("d")

    async def full(_records: object) -> None:
        raise StorageFull("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(desk.journal, "append", full)
        with pytest.raises(StorageFull):
            await desk.report("a", running=rollout.release, number=rollout.number)
        with pytest.raises(StorageFull):
            await desk.ota.pause(rollout.number)
        with pytest.raises(StorageFull):
            await desk.roll_out("1.1", ["d"], first=["d"])
    assert desk.ota.rollouts() == [rollout]
    assert desk.ota.stand(rollout, "a") is Stand.DUE


async def test_roll_outs_that_cannot_be(desk: Desk) -> None:
    rollout = await desk.roll_out()
    with pytest.raises(EdgeError, match=f"'a' is in the roll-out {rollout.number} already"):
        await desk.roll_out("1.1")
    await desk.ota.abort(rollout.number)
    await desk.registry.add("keyless", token=False)
    with pytest.raises(EdgeError, match="'keyless' has no token"):
        await desk.roll_out("1.1", ["keyless"], first=[])
    with pytest.raises(NotFound):
        await desk.roll_out("1.1", ["nobody"], first=[])
    with pytest.raises(EdgeError, match="no device is meant"):
        await desk.roll_out("1.1", [], first=[])
    with pytest.raises(NotFound):
        await desk.ota.roll_out("00" * 32, ["a"])
    await desk.report("b")
    esp = desk.release("1.2", boards=["esp32"])
    with pytest.raises(EdgeError, match="'b' is of the platform rp2; the release is for esp32"):
        await desk.ota.roll_out(esp, ["b"])
    assert (await desk.ota.roll_out(esp, ["c"])).number > rollout.number, "numbers rise, at the same second too"
    with pytest.raises(EdgeError, match=r"the roll-out \d+ is about it"):
        await desk.ota.remove(esp)


async def test_a_device_that_is_removed_is_forgotten(desk: Desk) -> None:
    await desk.report("a")
    assert "a" in desk.ota.reported()
    await desk.registry.remove("a")
    while desk.ota._forgetting:
        await next(iter(desk.ota._forgetting))
    assert "a" not in desk.ota.reported()
    assert "a" not in (await Desk(desk.journal, Path("/nowhere")).open()).ota.reported()


async def test_nobody_waits_for_a_device_that_is_removed(desk: Desk) -> None:
    rollout = await desk.roll_out()
    await desk.report("a", wire_ota.FETCHING, number=rollout.number)
    await desk.registry.remove("a")
    assert await desk.ask("a", rollout.release) == [("a", "offer", {})]
    await desk.ota.look()
    assert desk.ota.rollout(0).step == 1
    assert desk.ota.stand(desk.ota.rollout(0), "a") is Stand.REMOVED
    await desk.registry.remove("b")
    await desk.report("c", running=rollout.release, number=rollout.number)
    await desk.ota.look()
    assert desk.ota.rollout(0).state == DONE


async def test_a_release_is_not_removed_while_a_roll_out_of_it_begins(desk: Desk) -> None:
    release = desk.release()
    append, storing, go_on = desk.journal.append, asyncio.Event(), asyncio.Event()

    async def slow(records: Any) -> Any:
        storing.set()
        await go_on.wait()
        return await append(records)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(desk.journal, "append", slow)
        beginning = asyncio.create_task(desk.ota.roll_out(release, ["a"]))
        await storing.wait()
        removing = asyncio.create_task(desk.ota.remove(release))
        for _ in range(5):
            await asyncio.sleep(0)
        go_on.set()
        rollout = await beginning
        with pytest.raises(EdgeError, match=f"the roll-out {rollout.number} is about it"):
            await removing
    assert desk.store.get(release) is not None
    await desk.ota.abort(0)
    await desk.ota.remove(release)
    with pytest.raises(NotFound):
        await desk.ota.roll_out(release, ["a"])


async def test_what_is_below_nothing(desk: Desk) -> None:
    release = desk.release()
    with pytest.raises(EdgeError, match="not below 0"):
        await desk.ota.roll_out(release, ["a"], tolerated=-1)
    with pytest.raises(EdgeError, match="not below 0"):
        await desk.ota.roll_out(release, ["a"], soak=-1)


async def test_what_cannot_be_read(desk: Desk) -> None:
    with pytest.raises(WireError):
        await desk.ota.report("a", b"\x01")
    with pytest.raises(WireError):
        desk.ota.ask("a", b"\xa0")


async def test_numbers_rise_whatever_the_gateways_clock_does(desk: Desk, tmp_path: Path) -> None:
    first = await desk.roll_out()
    await desk.ota.abort(first.number)
    desk.clock.step(-40 * 365 * 86_400 * 10**6)  # it has no battery, and no network either
    second = await desk.roll_out("1.1")
    assert second.number == first.number + 1
    await desk.ota.abort(second.number)
    again = await Desk(desk.journal, tmp_path).open()
    again.clock.step(-again.clock.now())
    assert (await again.roll_out("1.2")).number == second.number + 1, "nor over a restart"


async def test_a_gateway_that_has_lost_its_journal_goes_on_above_what_boards_have_taken(desk: Desk) -> None:
    desk.clock.step(-desk.clock.now())
    early = await desk.roll_out(devices=["a"])
    assert early.number < 10
    await desk.report("a", number=1_795_000_000)
    # What the board says of that offer has its number; that it has taken a newer one is not forgotten by it.
    await desk.report("a", wire_ota.FAILED, number=early.number)
    await desk.ota.abort(early.number)
    again = await Ota.open(desk.journal, desk.registry, desk.clock, desk.store, desk.log.append)
    for ota in (desk.ota, again):
        assert (await ota.roll_out(desk.release("2.0"), ["a"])).number == 1_795_000_001
        await ota.abort(0)


async def test_a_board_that_lies_about_numbers_does_not_use_them_up(desk: Desk) -> None:
    for number in (2**32 - 1, 2**32 - 2**24 + 1):
        await desk.report("b", number=number)
    rollout = await desk.roll_out(devices=["a"])
    assert rollout.number < 2**32 - 2**24
    await desk.report("b", number=2**32 - 2**24)
    assert (await desk.roll_out("2.0", ["c"], first=["c"])).number == 2**32 - 2**24 + 1


async def test_a_shared_secret_proves_an_offer_as_a_token_does(desk: Desk) -> None:
    await desk.registry.add("h", hs256=True)
    desk.online.add("h")
    rollout = await desk.roll_out(devices=["h"], first=["h"])
    ((_, _, offer),) = desk.heard()
    (key,) = desk.registry.info("h").keys
    assert offer[3] == [wire_ota.prove(sha256(key.data).digest(), rollout.number, offer[0], "h")]
    await desk.registry.add("x", token=False)
    with pytest.raises(EdgeError, match="'x' has no token"):
        await desk.roll_out("2.0", ["x"], first=["x"])
