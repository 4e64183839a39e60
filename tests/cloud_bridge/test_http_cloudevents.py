"""What goes out over HTTP, and what each kind of answer means."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_bridge.targets.http_cloudevents import MAX_RETRY_AFTER, HttpCloudEventsTarget, header_value, timestamp
from edge_runtime.clock import ManualClock
from edge_runtime.events import Event, Origin
from edge_runtime.flows.ports import Rejected, Unavailable
from tests.cloud_bridge.faulty_receiver import FaultyReceiver, Request

EVENT = Event("gh-1", b"\x01" * 8, 7, "climate", 1_700_000_000_123_456, 0, {"temperature": 31})


@pytest.fixture
async def receiver() -> AsyncIterator[FaultyReceiver]:
    found = FaultyReceiver()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def target(receiver: FaultyReceiver, clock: ManualClock) -> AsyncIterator[HttpCloudEventsTarget]:
    found = HttpCloudEventsTarget(receiver.url, "//edge/north", 5_000_000, clock)
    yield found
    await found.aclose()


async def test_a_delivery_is_a_binary_mode_cloudevent(receiver: FaultyReceiver, target: HttpCloudEventsTarget) -> None:
    await target.send(EVENT, {"site": "north", "list": [1, None, True]})
    (request,) = receiver.requests
    assert request.line == "POST /take?key=secret HTTP/1.1"
    assert {name: value for name, value in request.headers.items() if name.startswith(("ce-", "content-t"))} == {
        "ce-specversion": "1.0",
        "ce-id": "gh-1/0101010101010101/7",
        "ce-source": "//edge/north/devices/gh-1",
        "ce-type": "io.edge.event.climate",
        "ce-subject": "gh-1",
        "ce-time": "2023-11-14T22:13:20.123456Z",
        "content-type": "application/json",
    }
    assert json.loads(request.body) == {"site": "north", "list": [1, None, True]}


async def test_an_emitted_event_has_the_same_id_in_every_epoch(
    receiver: FaultyReceiver, target: HttpCloudEventsTarget
) -> None:
    for epoch in (0, 1):
        await target.send(Event("gh-1", b"", 0, "mean", 0, 0, 1, 1, Origin("a.f", epoch, "gh-1/00/1", 0)), 1)
    assert len({request.headers["ce-id"] for request in receiver.requests}) == 1


async def test_connections_are_kept(receiver: FaultyReceiver, target: HttpCloudEventsTarget) -> None:
    for _ in range(5):
        await target.send(EVENT, 1)
    assert receiver.connections == 1


async def test_a_moment_that_cannot_be_written_is_left_out(
    receiver: FaultyReceiver, target: HttpCloudEventsTarget
) -> None:
    await target.send(Event("gh-1", b"\x01" * 8, 7, "climate", 2**61, 0, None), None)
    assert "ce-time" not in receiver.requests[0].headers
    assert timestamp(-1) == "1969-12-31T23:59:59.999999Z"


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content"])
async def test_any_2xx_is_accepted(receiver: FaultyReceiver, target: HttpCloudEventsTarget, status: str) -> None:
    receiver.answer = receiver.status(status)
    await target.send(EVENT, 1)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "status", ["408 Timeout", "425 Too Early", "429 Slow", "500 Oops", "503 Gone", "302 Found", "308 Moved"]
)
async def test_answers_that_mean_later(receiver: FaultyReceiver, target: HttpCloudEventsTarget, status: str) -> None:
    receiver.answer = receiver.status(status, "location: /elsewhere", body="why\r\n\x1b not")
    with pytest.raises(Unavailable, match=f"answered {status[:3]}") as caught:
        await target.send(EVENT, 1)
    assert "secret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(receiver.requests) == 1
    receiver.answer = receiver.status("200 OK")
    await target.send(EVENT, 1)


@pytest.mark.parametrize("status", ["400 Bad", "401 Who", "404 Nothing", "413 Large", "422 What"])
async def test_answers_that_mean_never(receiver: FaultyReceiver, target: HttpCloudEventsTarget, status: str) -> None:
    receiver.answer = receiver.status(status, body="no such field")
    with pytest.raises(Rejected, match=f"answered {status[:3]}: no such field") as caught:
        await target.send(EVENT, 1)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10),
        ("99999", MAX_RETRY_AFTER / 1e6),
        ("Tue, 14 Nov 2020 22:13:30 GMT", 0),
        ("soon", 0),
        ("-5", 0),
    ],
)
async def test_retry_after_is_honoured_within_a_bound(
    receiver: FaultyReceiver, target: HttpCloudEventsTarget, clock: ManualClock, text: str, seconds: float
) -> None:
    receiver.answer = receiver.status("503 Busy", f"retry-after: {text}")
    with pytest.raises(Unavailable):
        await target.send(EVENT, 1)
    receiver.answer = receiver.status("200 OK")
    if seconds:
        clock.advance(int(seconds * 1e6) - 1)
        with pytest.raises(Unavailable, match="left alone"):
            await target.send(EVENT, 1)
        assert len(receiver.requests) == 1
        clock.advance(1)
    await target.send(EVENT, 1)
    assert len(receiver.requests) == 2


async def test_a_receiver_that_hangs(receiver: FaultyReceiver, clock: ManualClock) -> None:
    receiver.answer = receiver.hang
    target = HttpCloudEventsTarget(receiver.url, "//edge/north", 50_000, clock)
    with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
        await target.send(EVENT, 1)
    await target.aclose()


async def test_a_receiver_that_dribbles_for_ever(receiver: FaultyReceiver, clock: ManualClock) -> None:
    async def endless(request: Request) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx"

    receiver.answer = endless
    target = HttpCloudEventsTarget(receiver.url, "//edge/north", 50_000, clock)
    with pytest.raises(Unavailable, match="did not answer within"):
        await target.send(EVENT, 1)
    await target.aclose()


async def test_an_answer_without_end_is_not_read_to_its_end(
    receiver: FaultyReceiver, target: HttpCloudEventsTarget
) -> None:
    async def large(request: Request) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n" + b"x" * 100_000

    receiver.answer = large
    await target.send(EVENT, 1)
    assert len(receiver.requests) == 1


async def test_a_receiver_that_hangs_up_or_speaks_something_else(
    receiver: FaultyReceiver, target: HttpCloudEventsTarget
) -> None:
    async def hang_up(request: Request) -> bytes:
        raise ConnectionError

    async def babble(request: Request) -> bytes:
        return b"SSH-2.0-OpenSSH_9.2\r\n\r\n"

    for answer in (hang_up, babble):
        receiver.answer = answer
        with pytest.raises(Unavailable, match="cannot be reached"):
            await target.send(EVENT, 1)


async def test_nobody_there(receiver: FaultyReceiver, target: HttpCloudEventsTarget) -> None:
    await receiver.stop()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await target.send(EVENT, 1)


@pytest.mark.parametrize("value", [{"a": {(1, 2): 3}}, {"a": object()}, {"a": "\ud800"}])
async def test_a_value_that_is_not_json_is_rejected_without_being_sent(
    receiver: FaultyReceiver, target: HttpCloudEventsTarget, value: Any
) -> None:
    with pytest.raises(Rejected, match="not JSON"):
        await target.send(EVENT, value)
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("text", "encoded"),
    [("plain-1/2", "plain-1/2"), ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"), ('a"b%c\r\n', "a%22b%25c%0D%0A")],
)
def test_attributes_are_percent_encoded(text: str, encoded: str) -> None:
    assert header_value(text) == encoded


@given(st.text())
def test_an_encoded_attribute_is_always_a_safe_header(text: str) -> None:
    assert all(0x21 <= ord(char) <= 0x7E and char != '"' for char in header_value(text))


@given(st.integers(-(2**62), 2**62))
def test_a_timestamp_is_rfc_3339_or_nothing(micros: int) -> None:
    text = timestamp(micros)
    assert text is None or (len(text) == 27 and text.endswith("Z"))
