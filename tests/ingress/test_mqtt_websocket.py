"""MQTT over WebSocket (section 6 of the standard): handshakes and frames that are as they should be, and others."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from tests.ingress.mqtt_house import PATIENCE, Client, House, connect_packet, event_packet, eventually

CONNACK = b"\x20\x02\0\0"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = await House.build()
    house.port = await house.door.listen("127.0.0.1", 0, websocket=True)
    yield house
    await house.tear_down()


class Browser:
    """A WebSocket client over a test's connection."""

    def __init__(self, client: Client, subprotocols: list[str]) -> None:
        self.client = client
        self.ws = WSConnection(ConnectionType.CLIENT)
        client.send(self.ws.send(Request(host="localhost", target="/mqtt", subprotocols=subprotocols)))

    async def events(self) -> list[object]:
        """What comes next, at least one event; none if the connection was closed."""
        while True:
            data = await self.client.some(PATIENCE)
            if not data:
                return []
            self.ws.receive_data(data)
            found = list(self.ws.events())
            if found:
                return list(found)

    def send(self, data: bytes) -> None:
        self.client.send(self.ws.send(BytesMessage(data=data)))


async def browser(house: House, *subprotocols: str) -> Browser:
    return Browser(await house.client(), list(subprotocols or ("mqtt",)))


async def test_a_device_over_websocket_with_packets_cut_anyhow(house: House) -> None:
    """[MQTT-6.0.0-2] and [MQTT-6.0.0-4]: packets and frames need not end together; the subprotocol is "mqtt"."""
    one = await browser(house, "other", "mqtt")
    (accepted,) = await one.events()
    assert isinstance(accepted, AcceptConnection)
    assert accepted.subprotocol == "mqtt"
    stream = connect_packet("d", house.key) + event_packet(0, {"t": 1})
    for start in range(0, len(stream), 7):
        one.send(stream[start : start + 7])
    got = b""
    while len(got) < 8:
        for event in await one.events():
            assert isinstance(event, BytesMessage)
            got += event.data
    assert got[:4] == CONNACK
    assert got[4:6] == b"\x40\2"
    assert len(house.journal.events) == 1
    one.client.send(one.ws.send(Ping(payload=b"x")))
    assert [type(event) for event in await one.events()] == [Pong]
    one.client.send(one.ws.send(CloseConnection(code=1000)))
    await eventually(lambda: house.door.counters.connections == 0)


async def test_who_does_not_ask_for_mqtt_is_refused(house: House) -> None:
    """[MQTT-6.0.0-3]."""
    one = await browser(house, "chat")
    assert "400" in str((await one.events())[0]) or house.door.counters.connections == 0
    await eventually(lambda: house.door.counters.connections == 0)


async def test_text_closes(house: House) -> None:
    """[MQTT-6.0.0-1]."""
    one = await browser(house)
    await one.events()
    one.client.send(one.ws.send(TextMessage(data="hello")))
    (closed,) = await one.events()
    assert isinstance(closed, CloseConnection)
    assert closed.code == 1003
    await eventually(lambda: house.door.counters.connections == 0)


@pytest.mark.parametrize(
    "data", [b"\x10\x0c\0\4MQTT\4\2\0\0\0\0", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000, b"\xff" * 50]
)
async def test_what_is_no_handshake_closes(house: House, data: bytes) -> None:
    client = await house.client()
    client.send(data, b"\r\n\r\n")
    await eventually(lambda: house.door.counters.connections == 0)


async def test_a_handshake_that_never_ends_is_cut(house: House) -> None:
    client = await house.client()
    client.send(b"GET /mqtt HTTP/1.1\r\n")
    await eventually(lambda: house.door.counters.connections == 1)
    house.pass_seconds(12)
    await eventually(lambda: house.door.counters.connections == 0)


async def test_a_frame_that_announces_too_much_is_held_to_the_limits_of_mqtt(house: House) -> None:
    one = await browser(house)
    await one.events()
    one.send(b"\x10\xff\xff\xff\x7f")
    (closed,) = await one.events()
    assert isinstance(closed, CloseConnection)
    assert house.door.counters.violations == 1
