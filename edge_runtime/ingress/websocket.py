"""MQTT over WebSocket (MQTT 5.0 section 6): a protocol around the one of the MQTT door, and a transport below it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from edge_runtime.ingress.turns import Turns

SUBPROTOCOL = "mqtt"
MAX_HANDSHAKE = 16 << 10
"""Bytes of the HTTP request; what follows in frames is held to the limits of MQTT, however it is cut into frames."""


class WebSocket(asyncio.Protocol):
    """The asyncio protocol of one connection; `made` makes the one inside, from whose point of view nothing differs."""

    def __init__(self, made: Callable[[], asyncio.Protocol]) -> None:
        self._inner = made()
        self._ws = WSConnection(ConnectionType.SERVER)
        self._transport: asyncio.Transport | None = None
        self._turns: Turns | None = None
        self._open = False
        self._closed = False
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio. The door counts and times the connection from here on."""
        self._transport = below = cast(asyncio.Transport, transport)
        self._turns = turns = Turns(below, self._read)
        self._inner.connection_made(_Below(self, below, turns))

    def connection_lost(self, error: Exception | None) -> None:
        """Called by asyncio."""
        self._closed = True
        if self._turns is not None:
            self._turns.end()
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        """Called by asyncio."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._inner.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._turns is not None:
            self._turns.feed(data)

    def _read(self, data: bytes) -> None:
        if self._closed or self._transport is None:
            return
        if not self._open:
            self._received += len(data)
            if self._received > MAX_HANDSHAKE:
                self.cut()
                return
        try:
            self._ws.receive_data(data)
            for event in self._ws.events():
                self._handle(event)
                if self._transport.is_closing():
                    return
        except (RemoteProtocolError, UnicodeDecodeError) as error:  # the latter for a header that is not ASCII
            if isinstance(error, RemoteProtocolError) and error.event_hint is not None:
                self._send(error.event_hint)
            self.close(CloseReason.PROTOCOL_ERROR)

    def _handle(self, event: Event) -> None:
        match event:
            case Request():
                if SUBPROTOCOL not in event.subprotocols:  # [MQTT-6.0.0-3]
                    self._send(RejectConnection(status_code=400))
                    self.close(CloseReason.PROTOCOL_ERROR)
                    return
                self._send(AcceptConnection(subprotocol=SUBPROTOCOL))
                self._open = True
            case BytesMessage():
                # Packets and frames need not end together ([MQTT-6.0.0-2]).
                self._inner.data_received(bytes(event.data))
            case TextMessage():
                self.close(CloseReason.UNSUPPORTED_DATA)  # [MQTT-6.0.0-1]
            case Ping():
                self._send(event.response())
            case CloseConnection():
                self._send(event.response())
                self.close(CloseReason.NORMAL_CLOSURE)

    def _send(self, event: Event) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._transport.write(self._ws.send(event))
        except LocalProtocolError:
            return  # after the closing of the WebSocket nothing can be said any more

    def write(self, data: bytes) -> None:
        """Send what the inner protocol says."""
        if self._open:
            self._send(BytesMessage(data=data))

    def close(self, reason: CloseReason = CloseReason.NORMAL_CLOSURE) -> None:
        """Close in good order."""
        if not self._closed and self._transport is not None:
            self._closed = True
            if self._open:
                self._send(CloseConnection(code=reason))
            self._transport.close()

    def cut(self) -> None:
        """Close at once."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()

    def replace(self, protocol: asyncio.BaseProtocol) -> None:
        """Another protocol goes on inside."""
        self._inner = cast(asyncio.Protocol, protocol)


class _Below(asyncio.Transport):
    """What the inner protocol has for a transport."""

    def __init__(self, socket: WebSocket, transport: asyncio.Transport, turns: Turns) -> None:
        super().__init__()
        self._socket = socket
        self._turns = turns
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._socket.write(bytes(data))

    def close(self) -> None:
        self._socket.close()

    def abort(self) -> None:
        self._socket.cut()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._turns.pause()

    def resume_reading(self) -> None:
        self._turns.resume()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._socket.replace(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)
