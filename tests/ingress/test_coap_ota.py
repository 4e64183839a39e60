"""Updates on the wire of CoAP: what a board is answered, in the clear, in blocks and in OSCORE."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import pytest

from devices.ota import Ota
from devices.release_store import ReleaseStore, new_package
from devices.releases import manifest_of
from edge_runtime import wire_ota
from edge_runtime.journal.records import DeadLetter
from tests.ingress.coap_house import CoapHouse
from tests.ingress.test_coap_clients import ask, give

FILES = {"main.py": b"print(1)\n" * 300}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[CoapHouse]:
    house = await CoapHouse.build(tmp_path)
    store = ReleaseStore(tmp_path / "releases")
    house.door.admission.ota = await Ota.open(house.journal, house.registry, house.clock, store, lambda _: None)
    yield house
    await house.tear_down()


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    context = await aiocoap.Context.create_client_context(transports=["oscore", "simple6"])
    yield context
    await context.shutdown()


def of(house: CoapHouse) -> Ota:
    ota = house.door.admission.ota
    assert ota is not None
    return ota


async def roll_out(house: CoapHouse) -> str:
    release = of(house).store.take_in(new_package(FILES, manifest_of("greenhouse", "1", FILES)), 0)
    await of(house).roll_out(release.id, ["d"])
    return release.id


def uri(house: CoapHouse, word: str, device: str = "d") -> str:
    return f"{house.uri}/devices/{device}/ota/{word}?k={house.key}"


def piece(digest: str, offset: int = 0, length: int = 512) -> bytes:
    return cbor2.dumps({0: bytes.fromhex(digest), 1: offset, 2: length})


async def test_a_report_an_offer_and_its_pieces(house: CoapHouse, client: Any) -> None:
    told = cbor2.dumps({1: wire_ota.IDLE, 4: "rp2", 5: 0})
    assert (await ask(client, aiocoap.POST, uri(house, "report"), told)).code == aiocoap.CHANGED
    assert of(house).told("d").platform == "rp2"
    answer = await ask(client, aiocoap.GET, uri(house, "offer"))
    assert (answer.code, answer.payload) == (aiocoap.CONTENT, wire_ota.NOTHING)
    release = await roll_out(house)
    assert (await ask(client, aiocoap.FETCH, uri(house, "data"), b"\xa0")).code == aiocoap.BAD_REQUEST
    offer = cbor2.loads((await ask(client, aiocoap.GET, uri(house, "offer"))).payload)
    assert offer[0].hex() == release
    manifest = of(house).store.content(release, release)
    answer = await ask(client, aiocoap.FETCH, uri(house, "data"), piece(release, 4, 10), content_format=60)
    assert (answer.code, answer.opt.content_format) == (aiocoap.CONTENT, 60)
    assert cbor2.loads(answer.payload) == {0: offer[0], 1: 4, 2: manifest[4:14]}
    file = of(house).store.find("greenhouse").manifest.files[0]
    answer = await ask(client, aiocoap.FETCH, uri(house, "data"), piece(file.digest, 0, 16_000))
    assert cbor2.loads(answer.payload)[2] == FILES["main.py"][:1024], "no more than fits a datagram"
    assert house.door.counters.elsewhere == 0, "all of it went the short way"
    await of(house).pause(0)
    assert (await ask(client, aiocoap.FETCH, uri(house, "data"), piece(release))).code == aiocoap.NOT_FOUND


async def test_who_is_not_asked_gets_nothing(house: CoapHouse, client: Any) -> None:
    await house.registry.add("e")
    await roll_out(house)
    for code, word in ((aiocoap.GET, "offer"), (aiocoap.FETCH, "data"), (aiocoap.POST, "report")):
        assert (await ask(client, code, uri(house, word, "e"))).code == aiocoap.UNAUTHORIZED
        other = {aiocoap.GET: aiocoap.POST, aiocoap.FETCH: aiocoap.GET, aiocoap.POST: aiocoap.GET}[code]
        assert (await ask(client, other, uri(house, word))).code == aiocoap.METHOD_NOT_ALLOWED
    assert (await ask(client, aiocoap.POST, uri(house, "report"), b"\x01")).code == aiocoap.BAD_REQUEST
    (letter,) = (r for r in house.journal.inner.records() if isinstance(r, DeadLetter))
    assert letter.topic == "/devices/d/ota/report"
    house.door.admission.ota = None
    assert (await ask(client, aiocoap.GET, uri(house, "offer"))).code == aiocoap.NOT_FOUND


async def test_in_blocks_and_in_oscore(house: CoapHouse, client: Any, tmp_path: Path) -> None:
    release = await roll_out(house)
    manifest = of(house).store.content(release, release)
    answer = await ask(client, aiocoap.GET, uri(house, "offer"), block2=(0, False, 2))
    assert cbor2.loads(answer.payload)[0].hex() == release
    assert house.door.counters.elsewhere > 1
    _, context = await house.registry.add_oscore("d")
    give(client, house, tmp_path / "client", context)
    base = f"{house.uri}/devices/d/ota"
    assert cbor2.loads((await ask(client, aiocoap.GET, f"{base}/offer")).payload)[0].hex() == release
    answer = await ask(client, aiocoap.FETCH, f"{base}/data", piece(release))
    assert cbor2.loads(answer.payload)[2] == manifest[:512]
    assert (await ask(client, aiocoap.FETCH, f"{base}/offer")).code == aiocoap.METHOD_NOT_ALLOWED
    assert house.security == []
