"""The format of CoAP messages: RFC 7252 section 3, by the statements it makes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.proto import coap
from edge_runtime.proto.coap import FormatError, Message, numbers

messages = st.builds(
    Message,
    st.integers(0, 3),
    st.integers(1, 255).filter(lambda code: code >> 5 not in (1, 6, 7)),
    st.integers(0, 0xFFFF),
    st.binary(max_size=8),
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=300)), max_size=8).map(
        lambda options: tuple(sorted(options, key=lambda option: option[0]))
    ),
    st.binary(max_size=64),
)


@given(messages)
def test_what_is_encoded_is_read_as_the_same(message: Message) -> None:
    assert coap.decode(coap.encode(message)) == message


@given(st.binary(max_size=1500))
def test_no_datagram_does_more_than_be_refused(data: bytes) -> None:
    try:
        message = coap.decode(data)
    except FormatError:
        return
    assert sum(len(value) for _, value in message.options) + len(message.payload) <= len(data)


@given(messages, st.data())
def test_a_message_that_was_cut_is_refused_or_another_message(message: Message, data: st.DataObject) -> None:
    whole = coap.encode(message)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(FormatError):
        assert coap.decode(cut) != message


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x10"),
        (12, b"\x1c"),
        (13, b"\x1d\x00"),
        (268, b"\x1d\xff"),
        (269, b"\x1e\x00\x00"),
        (1000, b"\x1e\x02\xdb"),
    ],
)
def test_section_3_1_lengths_of_options(length: int, head: bytes) -> None:
    value = bytes(length)
    assert coap.encode_options([(1, value)]) == head + value
    assert coap.decode_options(head + value, 0) == ([(1, value)], len(head) + length)


@pytest.mark.parametrize(
    ("number", "head"),
    [
        (12, b"\xc0"),
        (13, b"\xd0\x00"),
        (268, b"\xd0\xff"),
        (269, b"\xe0\x00\x00"),
        (65_000, b"\xe0\xfc\xdb"),
        (65_535, b"\xe0\xfe\xf2"),
    ],
)
def test_section_3_1_deltas_of_options(number: int, head: bytes) -> None:
    assert coap.encode_options([(number, b"")]) == head
    assert coap.decode_options(head, 0)[0] == [(number, b"")]


def test_section_3_1_equal_options_stay_in_their_order() -> None:
    options = [(15, b"b"), (11, b"one"), (11, b"two"), (15, b"a")]
    expected = [(11, b"one"), (11, b"two"), (15, b"b"), (15, b"a")]
    assert coap.decode_options(coap.encode_options(options), 0)[0] == expected


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x40\x01\x00", "header"),  # section 3: 4 bytes
        (b"\x80\x01\x00\x01", "version 2"),  # section 3: Ver
        (b"\x49\x01\x00\x01" + bytes(9), "token of 9"),  # section 3: TKL 9-15 are reserved
        (b"\x4f\x01\x00\x01" + bytes(15), "token of 15"),
        (b"\x44\x01\x00\x01abc", "within its token"),
        (b"\x40\x01\x00\x01\xff", "marker without a payload"),  # section 3
        (b"\x40\x01\x00\x01\xf1x", "reserved option delta"),  # section 3.1: 15
        (b"\x40\x01\x00\x01\x1fx", "reserved option delta or length"),
        (b"\x40\x01\x00\x01\xd0", "head of an option"),
        (b"\x40\x01\x00\x01\x1e\x00", "head of an option"),
        (b"\x40\x01\x00\x01\xb5abc", "within option 11"),
        (b"\x40\x01\x00\x01\xe0\xff\xff", "beyond 65535"),
        (b"\x41\x00\x00\x01x", "empty message"),  # section 4.1
        (b"\x40\x00\x00\x01\xb1x", "empty message"),
        (b"\x40\x20\x00\x01", "reserved class 1"),  # section 4.2
        (b"\x40\xc0\x00\x01", "reserved class 6"),
        (b"\x40\xe0\x00\x01", "reserved class 7"),
    ],
)
def test_message_format_errors(data: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        coap.decode(data)


def test_appendix_a_figure_16() -> None:
    """A CON GET of `temperature` and its piggybacked answer, byte for byte."""
    request = Message(numbers.CON, numbers.GET, 0x7D34, options=((numbers.URI_PATH, b"temperature"),))
    assert coap.encode(request) == b"\x40\x01\x7d\x34\xbbtemperature"
    answer = coap.decode(b"\x60\x45\x7d\x34\xff22.3 C")
    assert (answer.type, answer.code, answer.payload) == (numbers.ACK, numbers.CONTENT, b"22.3 C")


def test_section_4_8_2_times_that_follow() -> None:
    times = coap.Transmission()
    assert times.MAX_TRANSMIT_SPAN == 45_000_000
    assert times.MAX_TRANSMIT_WAIT == 93_000_000
    assert times.PROCESSING_DELAY == 2_000_000
    assert times.MAX_RTT == 202_000_000
    assert times.EXCHANGE_LIFETIME == 247_000_000
    assert times.NON_LIFETIME == 145_000_000


@given(st.integers(0, 2**64))
def test_section_3_2_numbers_in_the_shortest_form(value: int) -> None:
    encoded = coap.uint(value)
    assert int.from_bytes(encoded) == value
    assert not encoded.startswith(b"\0")
