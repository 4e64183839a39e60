"""The server's message layer: RFC 7252 sections 4 and 5.2, without sockets or sleeping."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.proto import coap
from edge_runtime.proto.coap import Endpoint, Exchange, LayerLimits, Message, ServerLayer, numbers

SECOND = 1_000_000
HERE = ("192.0.2.1", 40_000)


def request(mid: int, kind: int = numbers.CON, token: bytes = b"ab") -> bytes:
    return coap.encode(Message(kind, numbers.POST, mid, token, payload=b"x"))


class Bench:
    """A layer with a clock."""

    def __init__(self, limits: LayerLimits | None = None) -> None:
        self.layer = ServerLayer(random.Random(1).random, limits=limits)
        self.now = 0

    def open(self, data: bytes, address: tuple[str, int] = HERE) -> Exchange | None:
        return self.layer.open(self.endpoint(address), data, self.now)

    def endpoint(self, address: tuple[str, int] = HERE) -> Endpoint:
        return self.layer.endpoint(address, self.now)

    def opened(self, data: bytes, address: tuple[str, int] = HERE) -> Exchange:
        exchange = self.open(data, address)
        assert exchange is not None
        return exchange

    def answer(self, exchange: Exchange, code: int = numbers.CHANGED) -> None:
        self.layer.answer(exchange, code, self.now)

    def pass_time(self, micros: int) -> list[Message]:
        self.now += micros
        self.layer.tick(self.now)
        return self.sent()

    def sent(self) -> list[Message]:
        out = [coap.decode(data) for data, address in self.layer.out if address == HERE]
        self.layer.out.clear()
        return out


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_section_5_2_1_the_answer_is_piggybacked_on_the_ack(bench: Bench) -> None:
    exchange = bench.opened(request(7))
    assert bench.sent() == [], "nothing before it is durable"
    bench.answer(exchange)
    assert bench.sent() == [Message(numbers.ACK, numbers.CHANGED, 7, b"ab")]


def test_section_4_5_a_repetition_gets_the_same_answer_and_does_nothing(bench: Bench) -> None:
    bench.answer(bench.opened(request(7)))
    (first,) = bench.sent()
    assert bench.open(request(7)) is None
    assert bench.sent() == [first]
    assert bench.layer.repeats == 1


def test_section_4_5_a_repetition_before_the_answer_is_taken_once(bench: Bench) -> None:
    exchange = bench.opened(request(7))
    assert bench.open(request(7)) is None
    assert bench.sent() == []
    bench.answer(exchange)
    assert len(bench.sent()) == 1


def test_section_4_5_ids_are_a_matter_of_each_endpoint(bench: Bench) -> None:
    bench.answer(bench.opened(request(7)))
    assert bench.open(request(7), ("192.0.2.1", 40_001)) is not None
    assert bench.open(request(7), ("192.0.2.2", 40_000)) is not None


def test_section_4_8_2_an_id_is_remembered_for_one_lifetime_and_not_for_ever(bench: Bench) -> None:
    bench.answer(bench.opened(request(7)))
    lifetime = coap.Transmission().EXCHANGE_LIFETIME
    bench.now += lifetime
    assert bench.open(request(7)) is None
    bench.now += 2 * lifetime
    assert bench.open(request(7)) is not None


def test_section_5_2_2_a_slow_answer_comes_separately(bench: Bench) -> None:
    exchange = bench.opened(request(7))
    assert bench.pass_time(SECOND - 1) == []
    assert bench.pass_time(1) == [Message(numbers.ACK, numbers.EMPTY, 7)], "before the peer repeats itself"
    bench.answer(exchange)
    (answer,) = bench.sent()
    assert (answer.type, answer.code, answer.token) == (numbers.CON, numbers.CHANGED, b"ab")
    # A repetition of the request gets its empty ACK again (section 4.2), and no second answer.
    assert bench.open(request(7)) is None
    assert bench.sent() == [Message(numbers.ACK, numbers.EMPTY, 7)]
    ack = coap.encode(Message(numbers.ACK, numbers.EMPTY, answer.mid))
    assert bench.layer.empty(ack, HERE)
    assert bench.pass_time(100 * SECOND) == []


def test_section_4_2_a_separate_answer_is_repeated_with_doubled_waits_and_given_up(bench: Bench) -> None:
    exchange = bench.opened(request(7))
    bench.pass_time(SECOND)
    bench.answer(exchange)
    bench.sent()
    moments = [at for at in range(0, 120 * SECOND, SECOND // 4) if bench.pass_time(SECOND // 4)]
    assert len(moments) == coap.Transmission().MAX_RETRANSMIT
    waits = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert all(abs(later - 2 * earlier) <= SECOND // 2 for earlier, later in itertools.pairwise(waits))
    assert 2 * SECOND <= moments[0] + SECOND // 4 <= 3 * SECOND + SECOND // 4


def test_section_4_2_a_reset_ends_the_repetitions(bench: Bench) -> None:
    exchange = bench.opened(request(7))
    bench.pass_time(SECOND)
    bench.answer(exchange)
    (answer,) = bench.sent()
    assert bench.layer.empty(coap.encode(Message(numbers.RST, numbers.EMPTY, answer.mid)), HERE)
    assert bench.pass_time(100 * SECOND) == []


def test_an_acknowledgement_from_elsewhere_ends_nothing(bench: Bench) -> None:
    exchange = bench.opened(request(7))
    bench.pass_time(SECOND)
    bench.answer(exchange)
    (answer,) = bench.sent()
    ack = coap.encode(Message(numbers.ACK, numbers.EMPTY, answer.mid))
    assert not bench.layer.empty(ack, ("192.0.2.9", 40_000))
    assert bench.pass_time(4 * SECOND) == [answer]


def test_section_5_2_3_a_non_is_answered_with_a_non_and_its_repetition_is_ignored(bench: Bench) -> None:
    exchange = bench.opened(request(7, numbers.NON))
    assert bench.pass_time(10 * SECOND) == [], "no ACK for a NON"
    bench.answer(exchange)
    (answer,) = bench.sent()
    assert (answer.type, answer.code, answer.token) == (numbers.NON, numbers.CHANGED, b"ab")
    assert bench.open(request(7, numbers.NON)) is None
    assert bench.sent() == []


def test_section_4_3_an_empty_con_is_a_ping(bench: Bench) -> None:
    assert bench.layer.empty(b"\x40\0\x12\x34", HERE)
    assert bench.sent() == [Message(numbers.RST, numbers.EMPTY, 0x1234)]
    assert bench.layer.empty(b"\x50\0\x12\x34", HERE), "an empty NON is ignored"
    assert bench.sent() == []


def test_section_4_2_only_a_con_is_rejected_with_a_reset(bench: Bench) -> None:
    for kind in (numbers.NON, numbers.ACK, numbers.RST):
        bench.layer.reject(bytes((0x40 | kind << 4, 1, 0, 5)), HERE)
    assert bench.sent() == []
    bench.layer.reject(b"\x4f\x01\0\5", HERE)
    assert bench.sent() == [Message(numbers.RST, numbers.EMPTY, 5)]


def test_a_refusal_is_not_remembered(bench: Bench) -> None:
    bench.layer.refuse(request(7), HERE, numbers.UNAUTHORIZED)
    bench.layer.refuse(request(8, numbers.NON), HERE, numbers.UNAUTHORIZED)
    con, non = bench.sent()
    assert con == Message(numbers.ACK, numbers.UNAUTHORIZED, 7, b"ab")
    assert (non.type, non.code, non.token) == (numbers.NON, numbers.UNAUTHORIZED, b"ab")
    assert bench.layer.remembered == 0
    assert bench.layer.endpoints == 0


def test_an_abandoned_request_may_come_again(bench: Bench) -> None:
    bench.layer.abandon(bench.opened(request(7)))
    assert bench.open(request(7)) is not None


def test_one_endpoint_is_remembered_up_to_its_limit() -> None:
    bench = Bench(LayerLimits(exchanges_of_endpoint=10))
    for mid in range(1000):
        bench.answer(bench.opened(request(mid)))
        assert bench.layer.remembered <= 10
    assert bench.open(request(999)) is None
    assert bench.open(request(995)) is None


def test_all_endpoints_are_remembered_up_to_the_limit_and_the_silent_go_first() -> None:
    bench = Bench(LayerLimits(endpoints=50, exchanges=100))
    for number in range(200):
        address = ("192.0.2.1", number)
        for mid in range(5):
            bench.answer(bench.opened(request(mid), address))
        assert bench.layer.endpoints <= 50
        assert bench.layer.remembered <= 100
    bench.layer.out.clear()
    assert bench.open(request(4), ("192.0.2.1", 199)) is None
    assert bench.open(request(4), ("192.0.2.1", 0)) is not None


def test_an_endpoint_with_a_request_under_way_is_not_forgotten() -> None:
    bench = Bench(LayerLimits(endpoints=2))
    exchange = bench.opened(request(7))
    for number in range(10):
        bench.answer(bench.opened(request(1), ("192.0.2.2", number)))
    assert bench.open(request(7)) is None
    bench.answer(exchange)
    assert bench.sent() == [Message(numbers.ACK, numbers.CHANGED, 7, b"ab")]


steps = st.one_of(
    st.tuples(st.just("request"), st.integers(0, 20), st.integers(0, 1)),
    st.tuples(st.just("answer"), st.integers(0, 20), st.just(0)),
    st.tuples(st.just("wait"), st.integers(0, 300 * SECOND), st.just(0)),
    st.tuples(st.just("ack"), st.integers(0, 0xFFFF), st.just(0)),
)


@settings(max_examples=60)
@given(st.lists(steps, max_size=60))
def test_whatever_happens_each_request_is_answered_once_and_the_count_is_true(
    script: list[tuple[str, int, int]],
) -> None:
    bench = Bench(LayerLimits(exchanges_of_endpoint=8, exchanges=12, endpoints=3))
    under_way: dict[int, Exchange] = {}
    for what, number, kind in script:
        if what == "request":
            exchange = bench.open(request(number, kind), ("192.0.2.1", number % 4))
            if exchange is not None:
                assert number not in under_way
                under_way[number] = exchange
        elif what == "answer" and number in under_way:
            before = len(bench.layer.out)
            bench.answer(under_way.pop(number))
            assert len(bench.layer.out) == before + 1
        elif what == "wait":
            bench.pass_time(number)
        elif what == "ack":
            bench.layer.empty(bytes((0x60, 0)) + number.to_bytes(2), HERE)
        endpoints = [bench.layer.find(("192.0.2.1", port)) for port in range(4)]
        assert bench.layer.remembered == sum(len(e.recent) + len(e.older) for e in endpoints if e is not None)
