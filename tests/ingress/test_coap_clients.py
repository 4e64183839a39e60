"""Real clients at the CoAP door: aiocoap's and libcoap's coap-client."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiocoap
import cbor2
import msgspec
import pytest
from aiocoap.oscore import NotAProtectedMessage

from devices.keys import OscoreContext
from devices.twin import json_content
from edge_runtime.ingress.coap import CoapLimits
from edge_runtime.journal.records import Command
from tests.ingress.coap_house import CoapHouse, until
from tests.ingress.mqtt_house import PATIENCE, event_payload

COAP_CLIENT = shutil.which("coap-client-notls") or shutil.which("coap-client")
libcoap = pytest.mark.skipif(COAP_CLIENT is None, reason="libcoap's coap-client is not installed (make system)")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[CoapHouse]:
    house = await CoapHouse.build(tmp_path, CoapLimits(max_body=8192))
    yield house
    await house.tear_down()


@pytest.fixture
async def client() -> AsyncIterator[Any]:
    """aiocoap's client."""
    context = await aiocoap.Context.create_client_context(transports=["oscore", "simple6"])
    yield context
    await context.shutdown()


async def ask(client: Any, code: Any, uri: str, payload: bytes = b"", **options: Any) -> Any:
    request = aiocoap.Message(code=code, uri=uri, payload=payload, **options)
    async with asyncio.timeout(PATIENCE):
        return await client.request(request).response


# aiocoap


async def test_aiocoap_posts_events(house: CoapHouse, client: Any) -> None:
    uri = f"{house.uri}/devices/d/events/climate?k={house.key}"
    answer = await ask(client, aiocoap.POST, uri, event_payload(1), content_format=65_000)
    assert answer.code == aiocoap.CHANGED
    answer = await ask(client, aiocoap.POST, uri, b'{"t":2}', content_format=50, transport_tuning=aiocoap.Unreliable)
    assert answer.code == aiocoap.CHANGED
    assert [e.data for e in house.journal.events] == [{"t": 1}, {"t": 2}]
    assert house.door.counters.elsewhere == 0, "all of it went the short way"


async def test_blocks_up_and_what_is_too_large(house: CoapHouse, client: Any) -> None:
    uri = f"{house.uri}/devices/d/events/climate?k={house.key}"
    answer = await ask(client, aiocoap.POST, uri, json.dumps("x" * 5000).encode(), content_format=50)
    assert answer.code == aiocoap.CHANGED
    assert [e.data for e in house.journal.events] == ["x" * 5000]
    answer = await ask(client, aiocoap.POST, uri, json.dumps("x" * 9000).encode(), content_format=50)
    assert answer.code == aiocoap.REQUEST_ENTITY_TOO_LARGE
    assert len(house.journal.events) == 1


async def test_discovery_names_the_resources(house: CoapHouse, client: Any) -> None:
    answer = await ask(client, aiocoap.GET, f"{house.uri}/.well-known/core")
    assert answer.opt.content_format == 40
    assert b"</devices/DEVICE/commands>" in answer.payload
    answer = await ask(client, aiocoap.GET, f"{house.uri}/.well-known/core?rt=edge.config")
    assert answer.payload.startswith(b"</devices/DEVICE/config>")


async def test_commands_are_observed_and_fetched(house: CoapHouse, client: Any) -> None:
    uri = f"{house.uri}/devices/d/commands?k={house.key}"
    assert not house.door.deliver(house.order(0)), "nobody asks for it"
    request = client.request(aiocoap.Message(code=aiocoap.GET, uri=uri, observe=0))
    first = await request.response
    assert cbor2.loads(first.payload) == []
    assert house.listening == ["d"]
    assert house.door.connected() == {"d"}
    notifications = request.observation.__aiter__()
    found = []
    for index in range(3):
        assert house.door.deliver(house.order(index))
        async with asyncio.timeout(PATIENCE):
            found += cbor2.loads((await anext(notifications)).payload)
    assert [command[0] for command in found] == [house.order(index).id for index in range(3)]
    assert [command[2] for command in found] == ["fan"] * 3
    reply = cbor2.dumps({0: found[0][0], 1: 0})
    answer = await ask(client, aiocoap.POST, f"{house.uri}/devices/d/replies?k={house.key}", reply, content_format=60)
    assert answer.code == aiocoap.CHANGED
    request.observation.cancel()
    answer = await ask(client, aiocoap.GET, uri)
    assert cbor2.loads(answer.payload) == []


def large(house: CoapHouse, index: int, size: int) -> Command:
    return msgspec.structs.replace(house.order(index), args={"text": f"{index}" * size})


async def test_large_commands_come_in_blocks_one_after_the_other(house: CoapHouse, client: Any) -> None:
    uri = f"{house.uri}/devices/d/commands?k={house.key}"
    request = client.request(aiocoap.Message(code=aiocoap.GET, uri=uri, observe=0))
    assert cbor2.loads((await request.response).payload) == []
    notifications = request.observation.__aiter__()
    orders = [large(house, 0, 5000), large(house, 1, 3000), house.order(2)]
    assert house.door.deliver(orders[0])
    await asyncio.sleep(0)  # the first one leaves
    waiting = orders[1:]
    found: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        while len(found) < 3:
            waiting = [order for order in waiting if not house.door.deliver(order)]
            found += cbor2.loads((await anext(notifications)).payload)
    assert [command[3] for command in found] == [order.args for order in orders]
    assert not house.door.deliver(large(house, 3, 1 << 16)), "beyond max_body"
    assert house.log[-1].endswith("is too large for CoAP")
    request.observation.cancel()


async def test_blocks_of_any_size_and_of_what_is_gone(house: CoapHouse, client: Any) -> None:
    uri = f"{house.uri}/devices/d/commands?k={house.key}"
    order = large(house, 0, 2000)

    def listening(_device: str) -> None:
        house.door.deliver(order)

    assert (await ask(client, aiocoap.GET, uri, block2=(1, False, 6))).code == aiocoap.REQUEST_ENTITY_INCOMPLETE
    house.door.on_listening = listening
    for exponent in (6, 4, 0):
        answer = await ask(client, aiocoap.GET, uri, block2=(0, False, exponent))
        assert [command[3] for command in cbor2.loads(answer.payload)] == [order.args]


async def test_an_observation_ends_when_the_device_is_blocked(house: CoapHouse, client: Any) -> None:
    uri = f"{house.uri}/devices/d/commands?k={house.key}"
    request = client.request(aiocoap.Message(code=aiocoap.GET, uri=uri, observe=0))
    await request.response
    await house.registry.block("d")
    await until(lambda: not house.door.connected())
    assert not house.door.deliver(house.order())


async def test_an_observation_ends_with_the_key_that_began_it(house: CoapHouse, client: Any) -> None:
    _, key = await house.registry.add_token("d", house.clock.now() + 60_000_000)
    uri = f"{house.uri}/devices/d/commands?k={key}"
    request = client.request(aiocoap.Message(code=aiocoap.GET, uri=uri, observe=0))
    await request.response
    house.pass_time(59_000_000)
    await asyncio.sleep(0)
    assert house.door.connected() == {"d"}
    house.pass_time(1_000_000)
    await until(lambda: not house.door.connected())
    assert not house.door.deliver(house.order())


async def configure(house: CoapHouse, value: Any) -> None:
    await house.door.admission.twin.set_config("d", json_content(value))


async def test_a_configuration_comes_in_blocks_and_its_changes_by_themselves(house: CoapHouse, client: Any) -> None:
    uri = f"{house.uri}/devices/d/config?k={house.key}"
    assert (await ask(client, aiocoap.GET, uri)).code == aiocoap.NOT_FOUND
    await configure(house, {"text": "x" * 3000})
    answer = await ask(client, aiocoap.GET, uri)
    assert cbor2.loads(answer.payload) == {0: 1, 1: {"text": "x" * 3000}}
    await configure(house, {"every": 5})
    request = client.request(aiocoap.Message(code=aiocoap.GET, uri=uri, observe=0))
    first = await request.response
    assert cbor2.loads(first.payload) == {0: 2, 1: {"every": 5}}
    await configure(house, {"every": 9})
    async with asyncio.timeout(PATIENCE):
        newer = await anext(request.observation.__aiter__())
    assert cbor2.loads(newer.payload) == {0: 3, 1: {"every": 9}}
    request.observation.cancel()
    answer = await ask(client, aiocoap.GET, uri, etags=[newer.opt.etag])
    assert (answer.code, answer.payload) == (aiocoap.VALID, b"")
    taken = cbor2.dumps({0: 3, 1: 0})
    answer = await ask(
        client, aiocoap.POST, f"{house.uri}/devices/d/config/ack?k={house.key}", taken, content_format=60
    )
    assert answer.code == aiocoap.CHANGED
    assert (await house.door.admission.twin.index("d")).acknowledged == 3


async def test_a_large_configuration_is_observed_in_blocks(
    house: CoapHouse, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    send = house.door.send

    def measured(data: bytes, address: Any) -> None:
        sizes.append(len(data))
        send(data, address)

    monkeypatch.setattr(house.door, "send", measured)
    uri = f"{house.uri}/devices/d/config?k={house.key}"
    await configure(house, "a" * 5000)
    request = client.request(aiocoap.Message(code=aiocoap.GET, uri=uri, observe=0))
    async with asyncio.timeout(PATIENCE):
        assert cbor2.loads((await request.response).payload) == {0: 1, 1: "a" * 5000}
        notifications = request.observation.__aiter__()
        for version, size in ((2, 5000), (3, 1), (4, 8000)):
            await configure(house, "b" * size)
            assert cbor2.loads((await anext(notifications)).payload) == {0: version, 1: "b" * size}
    assert max(sizes) <= house.door.limits.max_datagram
    request.observation.cancel()
    for exponent in (6, 4, 0):
        answer = await ask(client, aiocoap.GET, uri, block2=(0, False, exponent))
        assert cbor2.loads(answer.payload) == {0: 4, 1: "b" * 8000}
    assert (await ask(client, aiocoap.GET, uri, block2=(500, False, 6))).code == aiocoap.BAD_OPTION


async def test_the_newest_observation_of_a_configuration_ends_the_older(house: CoapHouse, client: Any) -> None:
    uri = f"{house.uri}/devices/d/config?k={house.key}"
    await configure(house, 1)
    older = client.request(aiocoap.Message(code=aiocoap.GET, uri=uri, observe=0))
    await older.response
    newer = client.request(aiocoap.Message(code=aiocoap.GET, uri=uri, observe=0))
    await newer.response
    async with asyncio.timeout(PATIENCE):
        assert (await anext(older.observation.__aiter__())).code == aiocoap.SERVICE_UNAVAILABLE
        await configure(house, 2)
        assert cbor2.loads((await anext(newer.observation.__aiter__())).payload) == {0: 2, 1: 2}
    newer.observation.cancel()


async def test_a_state_is_kept(house: CoapHouse, client: Any) -> None:
    uri = f"{house.uri}/devices/d/state?k={house.key}"
    assert (
        await ask(client, aiocoap.POST, uri, cbor2.dumps({0: {"on": True}}), content_format=60)
    ).code == aiocoap.CHANGED
    ((_, content),) = await house.door.admission.twin.states("d")
    assert content.value() == {"on": True}
    assert (await ask(client, aiocoap.POST, uri, b"\xff", content_format=60)).code == aiocoap.BAD_REQUEST


def give(client: Any, house: CoapHouse, folder: Path, context: OscoreContext) -> None:
    """Have aiocoap's client speak OSCORE with the gateway."""
    folder.mkdir()
    settings = {
        "secret_hex": context.master_secret.hex(),
        "salt_hex": context.master_salt.hex(),
        "sender-id_hex": context.recipient_id.hex(),
        "recipient-id_hex": context.sender_id.hex(),
    }
    (folder / "secret.json").write_text(json.dumps(settings))
    client.client_credentials.load_from_dict({f"{house.uri}/*": {"oscore": {"basedir": f"{folder}/"}}})


async def test_oscore(house: CoapHouse, client: Any, tmp_path: Path) -> None:
    _, context = await house.registry.add_oscore("d")
    give(client, house, tmp_path / "client", context)
    uri = f"{house.uri}/devices/d/events/climate"
    for seq in range(3):
        answer = await ask(client, aiocoap.POST, uri, event_payload(seq), content_format=65_000)
        assert answer.code == aiocoap.CHANGED
    answer = await ask(client, aiocoap.POST, uri, json.dumps("x" * 3000).encode(), content_format=50)
    assert answer.code == aiocoap.CHANGED
    assert [e.seq for e in house.journal.events[:3]] == [0, 1, 2]
    assert len(house.journal.events) == 4
    request = client.request(aiocoap.Message(code=aiocoap.GET, uri=f"{house.uri}/devices/d/commands", observe=0))
    assert cbor2.loads((await request.response).payload) == []
    assert house.door.deliver(house.order())
    async with asyncio.timeout(PATIENCE):
        (command,) = cbor2.loads((await anext(request.observation.__aiter__())).payload)
    assert command[0] == house.order().id
    request.observation.cancel()
    answer = await ask(client, aiocoap.GET, f"{house.uri}/devices/e/commands")
    assert answer.code == aiocoap.FORBIDDEN
    assert "'d' asked over CoAP" in house.security[-1]
    await house.registry.block("d")
    with pytest.raises(NotAProtectedMessage):  # a refusal that nobody could have protected
        await ask(client, aiocoap.POST, uri, event_payload(9), content_format=65_000)
    assert len(house.journal.events) == 4
    assert "blocked" in house.security[-1]


async def test_oscore_goes_on_after_a_restart_and_knows_a_replay(house: CoapHouse, client: Any, tmp_path: Path) -> None:
    _, context = await house.registry.add_oscore("d")
    give(client, house, tmp_path / "client", context)
    uri = f"{house.uri}/devices/d/events/climate"
    heard: list[bytes] = []
    hear = house.door.datagram_received

    def recording(data: bytes, addr: Any) -> None:
        heard.append(data)
        hear(data, addr)

    house.door.datagram_received = recording  # type: ignore[method-assign]
    assert (await ask(client, aiocoap.POST, uri, b"1", content_format=50)).code == aiocoap.CHANGED
    await house.door.stop()
    await house.open_door(house.door.admission, tmp_path)
    assert (await ask(client, aiocoap.POST, uri, b"2", content_format=50)).code == aiocoap.CHANGED
    attacker = house.client()
    attacker.send(heard[0])
    assert (await attacker.receive()).code == aiocoap.UNAUTHORIZED
    assert house.security[-1].endswith("in the name of 'd': a request came again, or too late")
    assert [e.data for e in house.journal.events] == [1, 2]


async def test_oscore_with_another_secret_is_a_line_of_the_security_log(
    house: CoapHouse, client: Any, tmp_path: Path
) -> None:
    _, context = await house.registry.add_oscore("d")
    other = OscoreContext(bytes(16), context.master_salt, context.sender_id, context.recipient_id, context.id_context)
    give(client, house, tmp_path / "client", other)
    uri = f"{house.uri}/devices/d/events/climate"
    with pytest.raises(NotAProtectedMessage):
        await ask(client, aiocoap.POST, uri, event_payload(1), content_format=65_000)
    (line,) = [line for line in house.security if "OSCORE" in line]
    assert line.endswith("in the name of 'd': a request could not be decrypted with its key")
    assert house.door.counters.failed_logins == 1
    assert not house.journal.events


async def test_oscore_keeps_secrets_to_the_owner(house: CoapHouse, client: Any, tmp_path: Path) -> None:
    _, context = await house.registry.add_oscore("d")
    give(client, house, tmp_path / "client", context)
    await ask(client, aiocoap.POST, f"{house.uri}/devices/d/events/climate", b"{}", content_format=50)
    (folder,) = (tmp_path / "oscore").iterdir()
    assert folder.stat().st_mode & 0o77 == 0
    assert (folder / "secret.json").stat().st_mode & 0o77 == 0


# libcoap


async def coap_client(house: CoapHouse, path: str, *options: str) -> str:
    """What coap-client prints."""
    assert COAP_CLIENT is not None
    process = await asyncio.create_subprocess_exec(
        COAP_CLIENT,
        *options,
        f"{house.uri}/{path}?k={house.key}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        return (await process.communicate())[0].decode("latin-1")


@libcoap
@pytest.mark.parametrize("reliability", [[], ["-N"]])
async def test_libcoap_posts_events(house: CoapHouse, reliability: list[str]) -> None:
    said = await coap_client(
        house, "devices/d/events/climate", "-v", "6", *reliability, "-m", "post", "-t", "50", "-e", '{"t":1}'
    )
    assert "c:2.04" in said
    assert [e.data for e in house.journal.events] == [{"t": 1}]


@libcoap
async def test_libcoap_sends_and_fetches_in_blocks(house: CoapHouse) -> None:
    text = json.dumps("y" * 2000)
    await coap_client(house, "devices/d/events/climate", "-b", "64", "-m", "post", "-t", "50", "-e", text)
    assert [e.data for e in house.journal.events] == ["y" * 2000]
    await configure(house, "z" * 3000)
    assert "z" * 3000 in await coap_client(house, "devices/d/config", "-m", "get", "-b", "256")


@libcoap
async def test_libcoap_observes(house: CoapHouse) -> None:
    asking = asyncio.create_task(coap_client(house, "devices/d/commands", "-m", "get", "-s", "1", "-v", "6"))
    await until(lambda: house.listening == ["d"])
    await until(lambda: house.door.deliver(house.order()))
    said = await asking
    assert "Observe:1" in said


@libcoap
async def test_libcoap_is_told_that_its_key_is_wrong(house: CoapHouse) -> None:
    house.key = "wrong"
    assert "4.01" in await coap_client(house, "devices/d/events/climate", "-m", "post", "-e", "x")


@libcoap
async def test_libcoap_observes_a_configuration_larger_than_a_datagram(house: CoapHouse) -> None:
    await configure(house, "a" * 3000)
    asking = asyncio.create_task(coap_client(house, "devices/d/config", "-m", "get", "-s", "2", "-v", "7"))
    await until(lambda: house.site is not None and house.site.config.observed() == {"d"})
    await configure(house, "b" * 3000)
    said = await asking
    answers = [line for line in said.splitlines() if " c:2.05 " in line]
    first = [line for line in answers if "Observe:" in line]
    assert ["Block2:0/M/1024" in line for line in first] == [True, True]
    assert max(int(size) for size in re.findall(r"received ([0-9]+) bytes", said)) <= house.door.limits.max_datagram
    assert sum("Block2:2/_/1024" in line for line in answers) >= 2, "the rest was fetched, of both"


async def test_an_answer_with_a_text_that_is_none_is_nothing(house: CoapHouse, client: Any) -> None:
    await ask(client, aiocoap.GET, f"{house.uri}/.well-known/core")
    location_path = b"\x81\xff"
    for kind in (0x60, 0x70):  # an ACK, a RST
        house.door.datagram_received(bytes((kind, 69, 0, 1)) + location_path, ("127.0.0.1", 5))
    assert (await ask(client, aiocoap.GET, f"{house.uri}/.well-known/core")).code == aiocoap.CONTENT
