"""The CoAP door: what is taken and what bad input gets, datagram by datagram."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import cbor2
import pytest

from edge_runtime.errors import StorageFull
from edge_runtime.ingress.coap import CoapLimits
from edge_runtime.journal.records import DeadLetter
from edge_runtime.proto import coap
from edge_runtime.proto.coap import Message, numbers
from tests.ingress.coap_house import CoapHouse, Options, until
from tests.ingress.mqtt_house import BOOT, event_payload

SECOND = 1_000_000
Build = Callable[[CoapLimits], Awaitable[CoapHouse]]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    houses: list[CoapHouse] = []

    async def one(limits: CoapLimits) -> CoapHouse:
        houses.append(await CoapHouse.build(tmp_path, limits))
        return houses[-1]

    yield one
    for each in houses:
        await each.tear_down()


@pytest.fixture
async def house(build: Build) -> CoapHouse:
    return await build(CoapLimits())


def climate(house: CoapHouse, *queries: str, form: int | None = 50) -> tuple[tuple[int, bytes], ...]:
    return Options.post("devices/d/events/climate", f"k={house.key}", *queries, form=form)


def letters(house: CoapHouse) -> list[DeadLetter]:
    return [r for r in house.journal.inner.records() if isinstance(r, DeadLetter)]


# What is taken


async def test_an_envelope_is_taken_once_however_often_it_is_posted(house: CoapHouse) -> None:
    client = house.client()
    options = climate(house, form=65_000)
    assert [await client.ask(options, event_payload(3)) for _ in range(3)] == ["2.04"] * 3
    assert [(e.boot, e.seq, e.data) for e in house.journal.events] == [(BOOT, 3, {"t": 3})]
    assert house.door.counters.duplicates == 2


async def test_the_answer_leaves_only_when_the_event_is_durable(house: CoapHouse) -> None:
    house.journal.slow = True
    client = house.client()
    client.post(climate(house), mid=5)
    await until(lambda: len(house.journal.under_way) == 1)
    assert await client.nothing()
    await house.journal.finish(0)
    assert await client.receive() == Message(numbers.ACK, numbers.CHANGED, 5, b"\0\5")


async def test_a_slow_commit_is_acknowledged_first_and_answered_separately(house: CoapHouse) -> None:
    house.journal.slow = True
    client = house.client()
    client.post(climate(house), mid=5)
    await until(lambda: len(house.journal.under_way) == 1)
    house.pass_time(SECOND)
    assert await client.receive() == Message(numbers.ACK, numbers.EMPTY, 5)
    await house.journal.finish(0)
    answer = await client.receive()
    assert (answer.type, answer.code, answer.token) == (numbers.CON, numbers.CHANGED, b"\0\5")
    house.pass_time(4 * SECOND)
    assert await client.receive() == answer
    client.send(coap.encode(Message(numbers.ACK, numbers.EMPTY, answer.mid)))
    assert await client.nothing()
    house.pass_time(60 * SECOND)
    assert await client.nothing()


async def test_a_repetition_of_a_datagram_is_taken_once_even_without_an_identity(house: CoapHouse) -> None:
    client = house.client()
    data = client.post(climate(house))
    first = await client.receive()
    client.send(data)
    assert await client.receive() == first
    assert len(house.journal.events) == 1
    assert await client.ask(climate(house)) == "2.04", "another request is another event"
    assert len(house.journal.events) == 2


async def test_an_identity_in_the_query_makes_a_post_repeatable(house: CoapHouse) -> None:
    client = house.client()
    options = climate(house, f"b={BOOT.hex()}", "s=7")
    assert [await client.ask(options), await client.ask(options)] == ["2.04", "2.04"]
    assert [(e.boot, e.seq) for e in house.journal.events] == [(BOOT, 7)]
    assert await client.ask(options, b'{"t":2}') == "4.00", "the same identity with other content"


async def test_every_form_and_a_batch(house: CoapHouse) -> None:
    client = house.client()
    assert await client.ask(climate(house, form=60), cbor2.dumps({"t": 1})) == "2.04"
    assert await client.ask(climate(house, form=None), b"\x01\x02") == "2.04"
    assert await client.ask(climate(house, form=0), b"hot") == "2.04"
    assert await client.ask(climate(house, form=110), b'[{"n":"x:temperature","v":21}]') == "2.04"
    assert await client.ask(climate(house, form=112), cbor2.dumps([{0: "x:temperature", 2: 21}])) == "2.04"
    batch = Options.post("devices/d/events", f"k={house.key}")
    assert await client.ask(batch, b'[{"kind":"a","data":1},{"kind":"b","data":2}]') == "2.04"
    found = [(e.kind, e.data) for e in house.journal.events]
    assert found == [
        ("climate", {"t": 1}),
        ("climate", b"\x01\x02"),
        ("climate", "hot"),
        ("climate", {"temperature": 21}),
        ("climate", {"temperature": 21}),
        ("a", 1),
        ("b", 2),
    ]
    assert len({e.id for e in house.journal.events}) == len(found)


async def test_a_non_is_taken_and_answered_with_a_non(house: CoapHouse) -> None:
    client = house.client()
    client.post(climate(house), kind=numbers.NON, mid=9)
    answer = await client.receive()
    assert (answer.type, answer.code, answer.token) == (numbers.NON, numbers.CHANGED, b"\0\x09")
    client.post(climate(house), kind=numbers.NON, mid=9)
    assert await client.nothing()
    assert len(house.journal.events) == 1


# What bad input gets


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", None),
        (b"\x40\x02\x00", None),
        (b"\x80\x02\x00\x05", None),
        (b"\x4f\x02\x00\x05" + bytes(15), Message(numbers.RST, 0, 5)),
        (b"\x40\x02\x00\x05\xff", Message(numbers.RST, 0, 5)),
        (b"\x40\x02\x00\x05\xf0x", Message(numbers.RST, 0, 5)),
        (b"\x40\x20\x00\x05", Message(numbers.RST, 0, 5)),
        (b"\x40\xe1\x00\x05", Message(numbers.RST, 0, 5)),
        (b"\x50\x02\x00\x05\xff", None),
        (b"\x60\x02\x00\x05", None),
        (b"\x40\x45\x00\x05", Message(numbers.RST, 0, 5)),
        (b"\x60\x45\x00\x05", None),
        (b"\x70\x00\x00\x05", None),
        (b"\x40\x02\x00\x05", Message(numbers.ACK, numbers.NOT_FOUND, 5)),
    ],
)
async def test_a_datagram_that_is_no_request(house: CoapHouse, data: bytes, answer: Message | None) -> None:
    client = house.client()
    client.send(data)
    if answer is not None:
        assert await client.receive() == answer
    assert await client.nothing()
    assert await client.ask(climate(house)) == "2.04", "the next one is heard"


@pytest.mark.parametrize(
    ("path", "code", "answer"),
    [
        ("devices/d/events/climate", numbers.GET, "4.05"),
        ("devices/d/events/climate", numbers.DELETE, "4.05"),
        ("devices/d/commands", numbers.POST, "4.05"),
        ("devices/d/elsewhere", numbers.POST, "4.04"),
        ("devices/d/events/climate/more", numbers.POST, "4.04"),
        ("devices/d!/events/climate", numbers.POST, "4.04"),
        ("devices/d/events/a b", numbers.POST, "4.04"),
        ("other", numbers.GET, "4.04"),
    ],
)
async def test_paths_and_methods_that_are_not_there(house: CoapHouse, path: str, code: int, answer: str) -> None:
    assert await house.client().ask(Options.post(path, f"k={house.key}"), code=code) == answer
    assert house.journal.events == []


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ((65_001, b"x"), "4.02"),  # RFC 7252 section 5.4.1: critical, not understood
        ((65_000, b"x"), "2.04"),  # elective
        ((numbers.CONTENT_FORMAT, b"\x32"), "4.02"),  # section 5.4.5: there twice
        ((numbers.PROXY_URI, b"coap://x"), "5.05"),
        ((numbers.PROXY_SCHEME, b"coap"), "5.05"),
    ],
)
async def test_options_that_are_not_for_us(house: CoapHouse, option: tuple[int, bytes], answer: str) -> None:
    assert await house.client().ask((*climate(house), option)) == answer


async def test_a_critical_option_in_a_non_is_met_with_silence(house: CoapHouse) -> None:
    client = house.client()
    client.post((*climate(house), (65_001, b"x")), kind=numbers.NON)  # RFC 7252 section 5.4.1
    assert await client.nothing()
    assert house.journal.events == []


async def test_what_cannot_be_read_becomes_a_dead_letter_and_is_answered_for_good(house: CoapHouse) -> None:
    client = house.client()
    assert await client.ask(climate(house), b"{") == "4.00"
    assert await client.ask(climate(house, form=41), b"<xml/>") == "4.15"
    assert await client.ask(climate(house, "b=00", "s=1")) == "4.00"
    assert await client.ask(climate(house, form=65_000), b"\xa0") == "4.00"
    assert await client.ask(Options.post("devices/d/replies", f"k={house.key}", form=60), b"\xa0") == "4.00"
    assert [letter.topic for letter in letters(house)][-1] == "/devices/d/replies"
    assert len(letters(house)) == 5
    assert house.door.counters.dead == 5


async def test_a_wrong_key_a_foreign_one_and_none_are_refused_with_a_line_each(house: CoapHouse) -> None:
    other = await house.registry.add("e")
    client = house.client()
    path = "devices/d/events/climate"
    for queries in ([f"k={other}"], ["k=wrong"], []):
        assert await client.ask(Options.post(path, *queries)) == "4.01"
    assert await client.ask(climate(house)) == "2.04"
    assert len(house.security) == 3
    assert not any(house.key in line or other in line for line in house.security)
    assert house.door.counters.failed_logins == 3


async def test_who_tries_keys_on_and_on_gets_no_answer_any_more(house: CoapHouse) -> None:
    client = house.client()
    wrong = Options.post("devices/d/events/climate", "k=wrong")
    for _ in range(3):
        assert await client.ask(wrong) == "4.01"
    for _ in range(50):
        client.post(wrong)
    assert await client.nothing()
    assert len(house.security) <= 20, "and does not flood the log"
    assert await client.ask(climate(house)) == "2.04", "a right key is never kept waiting"


async def test_a_blocked_device_is_out_at_once_although_its_options_are_known(house: CoapHouse) -> None:
    client = house.client()
    assert await client.ask(climate(house)) == "2.04"
    await house.registry.block("d")
    assert await client.ask(climate(house)) == "4.01"
    assert len(house.journal.events) == 1


async def test_a_key_in_the_clear_is_for_this_machine_only(house: CoapHouse) -> None:
    data = coap.encode(Message(numbers.CON, numbers.POST, 1, b"", climate(house), b"{}"))
    sent: list[tuple[bytes, object]] = []
    house.door.send = lambda data, address: sent.append((data, address))  # type: ignore[method-assign]
    house.door.datagram_received(data, ("192.0.2.7", 5683))
    assert house.journal.events == []
    assert "in the clear" in house.security[0]


async def test_no_answer_to_a_stranger_is_larger_than_what_he_sent(house: CoapHouse) -> None:
    client = house.client()
    for options in (
        Options.post("devices/d/events/climate"),
        Options.post("devices/d/commands", form=None),
        Options.post("nowhere", form=None),
        ((numbers.OSCORE, b"\x09\0\x01"),),
    ):
        for code in (numbers.GET, numbers.POST):
            data = client.post(options, b"xxxxxxxxxxxx", code=code)
            assert len(coap.encode(await client.receive())) <= len(data) + 16


async def test_a_datagram_that_is_too_large_is_told_to_come_in_blocks(house: CoapHouse) -> None:
    client = house.client()
    client.post(climate(house), b'"' + b"x" * 1300 + b'"')
    answer = await client.receive()
    assert answer.code == numbers.REQUEST_ENTITY_TOO_LARGE
    assert answer.all(numbers.SIZE1) == [coap.uint(64 << 10)]


async def test_too_many_under_way_are_put_off_and_others_are_not_kept_waiting(build: Build) -> None:
    house = await build(CoapLimits(max_in_flight_of_device=2))
    key = await house.registry.add("e")
    house.journal.slow = True
    flooding, other = house.client(), house.client()
    for mid in (1, 2, 3):
        flooding.post(climate(house), mid=mid)
    answer = await flooding.receive()
    assert (answer.code, answer.all(numbers.MAX_AGE)) == (numbers.SERVICE_UNAVAILABLE, [b"\x01"])
    other.post(Options.post("devices/e/events/climate", f"k={key}"))
    await until(lambda: len(house.journal.under_way) == 3)
    await house.journal.let_through(3)
    assert (await other.receive()).code == numbers.CHANGED
    assert house.door.counters.busy == 1
    assert await flooding.ask(climate(house), mid=4) == "2.04"


async def test_who_sends_too_fast_is_put_off_and_others_are_not(tmp_path: Path) -> None:
    house = await CoapHouse.build(tmp_path, rate=1)
    try:
        other = await house.registry.add("e")
        client = house.client()
        assert [await client.ask(climate(house)) for _ in range(3)] == ["2.04", "5.03", "5.03"]
        assert await client.ask(Options.post("devices/e/events/climate", f"k={other}")) == "2.04"
        house.pass_time(SECOND)
        assert await client.ask(climate(house)) == "2.04"
        assert house.door.counters.busy == 2
    finally:
        await house.tear_down()


async def test_all_together_are_bounded_too(build: Build) -> None:
    house = await build(CoapLimits(max_in_flight=3))
    house.journal.slow = True
    client = house.client()
    for mid in range(5):
        client.post(climate(house), mid=mid)
    codes = [(await client.receive()).code for _ in range(2)]
    assert codes == [numbers.SERVICE_UNAVAILABLE] * 2
    assert house.door.in_flight == 3


async def test_a_journal_that_cannot_store_is_told_as_such_and_nothing_is_acknowledged(house: CoapHouse) -> None:
    house.journal.slow = True
    client = house.client()
    client.post(climate(house))
    await until(lambda: len(house.journal.under_way) == 1)
    house.journal.under_way.popleft()[1].set_exception(StorageFull("full"))
    answer = await client.receive()
    assert (answer.code, answer.all(numbers.MAX_AGE)) == (numbers.SERVICE_UNAVAILABLE, [b"\x05"])
    assert house.door.counters.refused == 1
    assert "5.03" in house.log[0]
