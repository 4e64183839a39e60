"""Apps and their versions on a real gateway: deploys, rollbacks, and what is kept in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_runtime.errors import DeployError, EdgeError, NotFound
from edge_runtime.flows.replay import Replayed
from edge_runtime.functions.sandbox import build
from edge_runtime.functions.versions import KEPT
from edge_runtime.planes.api import MAX_DEPLOY, application
from edge_runtime.planes.deployments import Rollback
from edge_runtime.planes.messages import Deploy
from edge_runtime.planes.moments import EARLIEST
from edge_runtime.planes.rehearsal import AppReplay, Rehearsal
from tests.ingress.mqtt_house import event_packet
from tests.integration.test_gateway import Site

MAIN = """
from edge import App
from answers import order
app = App("folder")

@app.on("climate")
def answer(event, ctx):
    order(event, ctx)
"""


def folder(name: str = "fan", more: str = "") -> dict[str, bytes]:
    """An app that orders `name`."""
    answers = f"def order(event, ctx):\n    ctx.command(event.device, '{name}', event.data)\n"
    return {"main.py": (MAIN + more).encode(), "answers.py": answers.encode(), "table.json": b"{}"}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.start()
    yield site
    await site.stop()


async def put(site: Site, files: dict[str, bytes]) -> str:
    return (await site.gateway.deploy(Deploy(files))).version


async def back(site: Site, to: str = "") -> str:
    return (await site.gateway.deployments.rollback("folder", Rollback(to))).version


async def test_a_rollback_puts_the_version_before_live_while_events_flow(site: Site) -> None:
    first = await put(site, folder("fan"))
    second = await put(site, folder("valve"))
    device = await site.device("d")
    for seq in range(30):
        device.send(event_packet(seq, {"n": seq}))
        await device.receive()
        if seq == 15:
            assert await back(site) == first
    commands = await site.until("command", lambda found: len(found) >= 30)
    assert [line.data["n"] for line in commands] == list(range(30)), "in order, none missing, none doubled"
    names = [line.name for line in commands]
    assert names == sorted(names, reverse=True), "the new version first, then the old one again"
    assert set(names) == {"fan", "valve"}
    [row] = site.gateway.apps()
    assert row.version == first
    assert second != first


async def test_rollbacks_go_further_back_and_forth_by_name(site: Site) -> None:
    made = [await put(site, folder(name)) for name in ("a", "b", "c")]
    assert [await back(site), await back(site)] == [made[1], made[0]]
    with pytest.raises(EdgeError, match=f"no version of 'folder' was live before {made[0]}") as raised:
        await back(site)
    assert "edge apps versions folder" in raised.value.hint
    assert await back(site, made[2]) == made[2]
    assert await back(site) == made[0], "which was live before"
    unchanged = await site.gateway.deployments.rollback("folder", Rollback(made[0]))
    assert unchanged.unchanged
    rows = {row.version: row for row in await site.gateway.deployments.versions("folder")}
    assert {version: row.state for version, row in rows.items()} == {made[0]: "live", made[1]: "", made[2]: ""}
    assert rows[made[0]].since is not None
    await put(site, folder("c"))
    rows = {row.version: row for row in await site.gateway.deployments.versions("folder")}
    assert {version: row.state for version, row in rows.items()} == {made[0]: "rollback", made[1]: "", made[2]: "live"}


async def test_the_way_back_survives_a_restart(site: Site) -> None:
    first, second = await put(site, folder("a")), await put(site, folder("b"))
    await site.gateway.stop()
    await site.start()
    assert [row.version for row in site.gateway.apps()] == [second]
    assert await back(site) == first


async def test_what_there_is_not_is_said(site: Site) -> None:
    version = await put(site, folder())
    with pytest.raises(NotFound, match="no app 'foldre'") as raised:
        await site.gateway.deployments.rollback("foldre", Rollback())
    assert "'folder'" in raised.value.hint
    for wrong in ("0123456789ab", "../../etc", "x"):
        with pytest.raises(NotFound, match="there is no version") as raised:
            await back(site, wrong)
        assert version in raised.value.hint
    with pytest.raises(NotFound):
        await site.gateway.deployments.versions("..")
    assert [row.version for row in site.gateway.apps()] == [version]


MORE = """
@app.on("climate", start="earliest")
def second(event, ctx):
    ctx.emit("seen", event.data)
"""


async def test_a_trigger_that_a_rollback_brings_back_goes_on_where_it_stood(site: Site) -> None:
    await put(site, folder(more=MORE))
    device = await site.device("d")
    for seq in range(3):
        device.send(event_packet(seq, {"n": seq}))
        await device.receive()
    await site.until("event", lambda found: sum(line.name == "seen" for line in found) == 3)
    await put(site, folder())
    assert "folder.second" not in site.gateway.flows.runners
    for seq in range(3, 6):
        device.send(event_packet(seq, {"n": seq}))
        await device.receive()
    await site.until("command", lambda found: len(found) == 6)
    assert sum(line.name == "seen" for line in await site.lines("event")) == 3, "nobody listens"
    await back(site)
    seen = [line for line in await site.until("event", lambda found: len(found) == 12) if line.name == "seen"]
    assert [line.data["n"] for line in seen] == list(range(6)), "what came meanwhile, too, and nothing twice"
    state = site.gateway.flows.runners["folder.second"].state
    assert (state.epoch, state.removed) == (0, 0)


async def test_a_version_that_does_not_run_any_more_can_be_left(site: Site) -> None:
    first, second = await put(site, folder("a")), await put(site, folder("b"))
    await site.gateway.stop()
    (site.folder / "data/apps/folder" / second / "files/main.py").write_text("changed")
    await site.start()
    assert site.gateway.apps()[0].health != "ok"
    assert "not those that were deployed" in site.gateway.health().words
    assert await back(site) == first
    assert site.gateway.health().words == "ok"
    assert site.gateway.apps()[0].health == "ok"
    with pytest.raises(EdgeError, match="not those that were deployed"):
        await back(site, second)
    assert [row.version for row in site.gateway.apps()] == [first]


async def test_a_rollback_that_cannot_be_changes_nothing(tmp_path: Path) -> None:
    target = '[targets.cloud]\ntype = "http-cloudevents"\nurl = "http://127.0.0.1:9/"\n'
    site = Site(tmp_path, target)
    await site.start()
    route = '\n@app.route("climate", to="cloud")\ndef shape(event):\n    return event.data\n'
    routed, plain = await put(site, folder(more=route)), await put(site, folder())
    await site.gateway.stop()
    site = Site(tmp_path)
    await site.start()
    with pytest.raises(DeployError, match="no target 'cloud'"):
        await back(site)
    assert [row.version for row in site.gateway.apps()] == [plain]
    assert site.gateway.platform.load_of("folder", routed) is None, "and it takes no room"
    device = await site.device("d")
    device.send(event_packet(0, {"n": 1}))
    await site.until("command", lambda found: len(found) == 1)
    await site.stop()


async def test_a_version_from_before_an_upgrade_runs_on_the_new_sandbox(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name was made with the sandbox of that time, and stays its name."""
    first = await put(site, folder("a"))
    await put(site, folder("b"))
    await site.gateway.stop()
    (compiled,) = {site.gateway.platform.report().compiled}
    now = build.guest_version()
    monkeypatch.setattr("edge_runtime.functions.sandbox.compile.compiled", lambda *_: Path(compiled))
    monkeypatch.setattr("edge_runtime.functions.sandbox.build.built", lambda *_: Path(compiled))
    monkeypatch.setattr("edge_runtime.functions.sandbox.build.guest_version", lambda: now[::-1])
    await site.start()
    assert site.gateway.platform.report().guest == now[::-1]
    assert await back(site) == first
    device = await site.device("d")
    device.send(event_packet(0, {"n": 1}))
    [command] = await site.until("command", lambda found: len(found) == 1)
    assert command.name == "a"
    assert await put(site, folder("a")) != first, "the same files with another sandbox are another version"


async def test_the_newest_versions_are_kept_and_the_live_one_is(site: Site) -> None:
    made = [await put(site, folder(f"v{number}")) for number in range(KEPT + 2)]
    kept = [row.version for row in await site.gateway.deployments.versions("folder")]
    assert kept == made[:1:-1]
    with pytest.raises(NotFound):
        await back(site, made[0])
    for _ in range(KEPT - 1):
        await back(site)
    assert site.gateway.apps()[0].version == made[2], "the oldest that is kept"
    with pytest.raises(NotFound):
        await back(site)
    new = [await put(site, folder(f"w{number}")) for number in range(KEPT + 1)]
    await put(site, folder(f"w{KEPT}"))
    assert [row.version for row in await site.gateway.deployments.versions("folder")] == new[:0:-1]


async def test_escape_by_a_path_in_a_request_writes_nothing(site: Site) -> None:
    transport = httpx.ASGITransport(application(site.gateway))
    before = sorted(path for path in site.folder.rglob("*") if "journal" not in path.name)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as api:
        for path in ("../evil.py", "/tmp/evil.py", "lib/../../evil.py", "a\\b.py", "a\0.py", ".packages/../../x.py"):
            answer = await api.post("/apps", json={"files": {"main.py": "", path: "eA=="}})
            assert answer.status_code == 400
            assert "the app's file" in answer.json()["error"]
        answer = await api.post("/apps", json={"files": {"machine.cwasm": "f0VMRg=="}})
        assert answer.status_code == 400
        assert "'machine.cwasm' is not the name of an app's file" in answer.json()["error"]
        answer = await api.post("/apps", json={"files": {"main.py": "no base64!"}})
        assert answer.status_code == 400
        assert "Invalid base64" in answer.json()["error"]
    assert sorted(path for path in site.folder.rglob("*") if "journal" not in path.name) == before


async def test_escape_by_a_request_of_a_gigabyte_is_refused_before_it_is_read(site: Site) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1 << 20
            yield bytes(1 << 20)
            await asyncio.sleep(0)

    transport = httpx.ASGITransport(application(site.gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as api:
        announced = await api.post("/apps", content=b"{}", headers={"content-length": str(1 << 30)})
        assert (announced.status_code, announced.json()["error"]) == (400, "the request is larger than 12 MiB")
        endless = await api.post("/apps", content=body())
        assert (endless.status_code, endless.json()["error"]) == (400, "the request is larger than 12 MiB")
    assert read <= MAX_DEPLOY + (2 << 20)


FUSSY = """
@app.on("climate")
def fussy(event, ctx):
    if event.data["n"] % 4 == 3:
        raise ValueError("not three")
    ctx.emit("fine", {})
"""


@pytest.fixture
async def seen(site: Site) -> Site:
    """The app orders fans, and eight events have gone through it."""
    await put(site, folder("fan"))
    device = await site.device("d")
    for seq in range(8):
        device.send(event_packet(seq, {"n": seq}))
        await device.receive()
    await site.until("command", lambda found: len(found) == 8)
    return site


async def test_a_dry_run_shows_what_a_version_would_have_done(seen: Site) -> None:
    [live] = seen.gateway.apps()
    head = seen.gateway.flows.feed.head
    found = await seen.gateway.deploy(Deploy(folder("valve"), check=True, dry_run=5))
    [answer] = found.dry
    assert (answer.flow, answer.events, answer.failed) == ("folder.answer", 5, 0)
    assert (answer.same, answer.changed, answer.new, answer.missing) == (0, 5, 0, 0)
    assert (answer.differences[0].before["command"], answer.differences[0].now["command"]) == ("fan", "valve")
    assert (found.live, found.refused) == (False, "")
    assert seen.gateway.flows.feed.head == head, "nothing was stored"
    assert [row.version for row in await seen.gateway.deployments.versions("folder")] == [live.version]
    assert seen.gateway.platform.load_of("folder", found.version) is None


async def test_a_version_that_fails_in_its_dry_run_does_not_go_live(seen: Site) -> None:
    [live] = seen.gateway.apps()
    found = await seen.gateway.deploy(Deploy(folder(more=FUSSY), dry_run=100))
    assert found.refused == "it fails in the dry run: folder.fussy on 2 of 8 events"
    assert not found.live
    assert [row.version for row in seen.gateway.apps()] == [live.version]
    assert [row.version for row in await seen.gateway.deployments.versions("folder")] == [live.version]
    fussy = next(function for function in found.dry if function.flow == "folder.fussy")
    assert (fussy.new, len(fussy.faults)) == (8, 2)
    assert "ValueError: not three <- main.py, line 13, in fussy" in fussy.faults[0].detail
    assert not await seen.lines("dead-letter")
    forced = await seen.gateway.deploy(Deploy(folder(more=FUSSY), dry_run=100, force=True))
    assert (forced.live, forced.refused) == (True, "")
    assert seen.gateway.apps()[0].version == forced.version
    again = await seen.gateway.deploy(Deploy(folder(more=FUSSY), dry_run=100))
    assert (again.live, again.unchanged) == (True, True), "it is live: there is nothing to refuse"


async def test_a_rollback_does_not_wait_for_a_dry_run_and_the_same_version_may_go_live_beside_it(
    seen: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    [fan] = [row.version for row in seen.gateway.apps()]
    valve = await put(seen, folder("valve"))
    begun, go_on = asyncio.Event(), asyncio.Event()
    over_last = Rehearsal.over_last

    async def slow(*arguments: Any) -> list[Replayed]:
        begun.set()
        await go_on.wait()
        return await over_last(*arguments)

    monkeypatch.setattr(Rehearsal, "over_last", slow)
    trying = asyncio.create_task(seen.gateway.deploy(Deploy(folder("horn"), check=True, dry_run=5)))
    await begun.wait()
    assert await back(seen) == fan
    horn = await put(seen, folder("horn"))
    go_on.set()
    assert (await trying).version == horn
    kept = {row.version: row.state for row in await seen.gateway.deployments.versions("folder")}
    assert kept == {horn: "live", fan: "rollback", valve: ""}, "the dry run took nothing away with it"
    device = await seen.device("e")
    device.send(event_packet(0, {"n": 1}, device="e"))
    assert (await seen.until("command", lambda found: len(found) == 9))[-1].name == "horn"


async def test_a_route_is_tried_without_sending(tmp_path: Path) -> None:
    site = Site(tmp_path, '[targets.cloud]\ntype = "http-cloudevents"\nurl = "http://127.0.0.1:9/"\n')
    await site.start()
    device = await site.device("d")
    for seq in range(3):
        device.send(event_packet(seq, {"n": seq}))
        await device.receive()
    route = '\n@app.route("climate", to="cloud")\ndef shape(event):\n    return {"inverse": 1 / event.data["n"]}\n'
    found = await site.gateway.deploy(Deploy(folder(more=route), dry_run=10))
    assert found.refused == "it fails in the dry run: folder.shape on 1 of 3 events"
    plain = await put(site, folder(more=route.replace('event.data["n"]', "4")))
    other = await put(site, folder(more=route.replace('event.data["n"]', "5")))
    request = AppReplay(EARLIEST, version=other, against=plain)
    shape = (await site.gateway.deployments.replay("folder", request)).functions[1]
    assert (shape.flow, shape.changed) == ("folder.shape", 3)
    assert (shape.differences[0].before, shape.differences[0].now) == (
        {"event": "-> cloud", "device": "d", "data": {"inverse": 0.25}},
        {"event": "-> cloud", "device": "d", "data": {"inverse": 0.2}},
    )
    await site.stop()


async def test_versions_are_replayed_against_the_journal_and_each_other(seen: Site) -> None:
    [fan] = [row.version for row in seen.gateway.apps()]
    valve = await put(seen, folder("valve", more=FUSSY))
    deployments = seen.gateway.deployments
    head = seen.gateway.flows.feed.head

    live = await deployments.replay("folder", AppReplay(EARLIEST))
    assert (live.version, live.against) == (valve, "")
    assert {found.flow: (found.same, found.changed, found.new) for found in live.functions} == {
        "folder.answer": (0, 8, 0),
        "folder.fussy": (0, 0, 8),
    }
    before = await deployments.replay("folder", AppReplay(EARLIEST, version=fan))
    assert [(found.flow, found.same, found.changed) for found in before.functions] == [("folder.answer", 8, 0)]
    both = await deployments.replay("folder", AppReplay(EARLIEST, version=fan, against=valve))
    assert {found.flow: (found.same, found.changed, found.missing) for found in both.functions} == {
        "folder.answer": (0, 8, 0),
        "folder.fussy": (0, 0, 8),
    }
    assert seen.gateway.flows.feed.head == head, "nothing was stored"
    assert seen.gateway.platform.load_of("folder", fan) is None
    assert seen.gateway.platform.load_of("folder", valve) is not None
    with pytest.raises(NotFound, match="no version 0123456789ab of 'folder'"):
        await deployments.replay("folder", AppReplay(EARLIEST, against="0123456789ab"))
    with pytest.raises(NotFound, match="no app 'x'"):
        await deployments.replay("x", AppReplay(EARLIEST, version=fan))
    with pytest.raises(EdgeError, match="1 to 100000"):
        await deployments.replay("folder", AppReplay(EARLIEST, limit=0))


async def test_a_version_under_replay_outlives_its_replacement_and_the_live_one_its_replay(seen: Site) -> None:
    [fan] = [row.version for row in seen.gateway.apps()]
    deployments, platform = seen.gateway.deployments, seen.gateway.platform
    async with deployments.borrowed("folder", fan):
        valve = await put(seen, folder("valve"))
        assert platform.load_of("folder", fan) is not None
        async with deployments.borrowed("folder", valve):
            pass
        assert platform.load_of("folder", valve) is not None
    assert platform.load_of("folder", fan) is None


async def test_a_backup_holds_packages_but_nothing_half_written(site: Site, tmp_path: Path) -> None:
    version = await put(site, {**folder(), ".packages/six.py": b""})
    (site.folder / "data/apps/folder/.0123456789ab.7").mkdir()
    await site.gateway.backup(tmp_path / "backup")
    saved = tmp_path / "backup/apps/folder"
    assert [path.name for path in saved.iterdir()] == [version]
    assert (saved / version / "files/.packages/six.py").exists()


async def test_no_version_goes_while_they_are_copied(site: Site) -> None:
    with site.gateway.deployments.kept_whole():
        made = [await put(site, folder(f"v{number}")) for number in range(KEPT + 2)]
    assert len(await site.gateway.deployments.versions("folder")) == len(made)
    await put(site, folder("last"))
    assert len(await site.gateway.deployments.versions("folder")) == KEPT
