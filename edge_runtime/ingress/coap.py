"""The CoAP front door: one UDP port, where boards send events and fetch commands.

Paths and promises as in `docs/wire.md`. A plain POST goes the short way, through our own message layer straight to
admission; OSCORE, observe, blockwise and GET go to aiocoap (`coap_site`), which is loaded when first needed. Both use
the same socket and the same functions here.

- An answer 2.04 leaves when the event is durable. One that cannot be stored gets 5.03 with a Max-Age.
- Who shows a key in the clear is let in from this machine only, unless `insecure` says otherwise: on a network, OSCORE.
- Nobody who has not shown a key gets more than a few bytes beyond what he sent: a forged sender is no weapon.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from hmac import compare_digest
from typing import Any, Protocol, cast

import msgspec

from devices.registry import Login, Registry
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, WireError
from edge_runtime.ingress import coap_request, formats
from edge_runtime.ingress.admission import Admission, Settle, Verdict
from edge_runtime.ingress.coap_request import Refusal, Target
from edge_runtime.ingress.formats import Form
from edge_runtime.ingress.meters import Histogram
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.ingress.throttle import FailedLogins
from edge_runtime.journal.records import Command
from edge_runtime.proto import coap
from edge_runtime.proto.coap import Endpoint, Exchange, FormatError, LayerLimits, ServerLayer, numbers
from edge_runtime.throttle import ThrottledLog

Address = tuple[Any, ...]

RECEIVE_BUFFER = 4 << 20
"""Bytes of the socket's buffer: what a thousand boards send while the loop is busy for a moment."""
TICK = 0.25
"""Seconds between two looks at what is due."""
STOP_TIMEOUT = 5.0
RETRY = coap.uint(5)
"""Seconds (Max-Age) after which one who was told 5.03 may try again."""

MAX_PIECE = 1024
"""Bytes of a release in one answer: it is to fit a datagram."""
_CBOR = ((numbers.CONTENT_FORMAT, coap.uint(60)),)
_ACCEPTED, _DUPLICATE, _DEAD = Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.DEAD
_TRY_LATER = coap.encode_options([(numbers.MAX_AGE, RETRY)])


class CoapLimits(msgspec.Struct, frozen=True):
    """Bounds of the door. Sizes in bytes."""

    max_datagram: int = 1280
    """A larger datagram is refused with 4.13; larger bodies come in blocks."""
    max_body: int = 64 << 10
    """Of a request or an answer in blocks."""
    max_in_flight: int = 4096
    """Requests that wait for the journal; beyond them 5.03."""
    max_in_flight_of_device: int = 64
    max_exchanges_elsewhere: int = 16_384
    """Requests that aiocoap remembers (for EXCHANGE_LIFETIME, 2.5 KB each); beyond them 5.03. A peer gets a quarter."""
    max_strangers: int = 512
    """The part of them for requests without a key shown: discovery, and OSCORE before it is opened."""
    max_observers: int = 1000
    """Observations at a time, one for each device and resource."""
    layer: LayerLimits = LayerLimits()


class CoapCounters(msgspec.Struct):
    """Running totals since the start."""

    messages: int = 0
    """Events, batches and replies received, repetitions not counted."""
    acknowledged: int = 0
    duplicates: int = 0
    dead: int = 0
    refused: int = 0
    """Messages that could not be stored, answered with 5.03."""
    busy: int = 0
    """Requests answered with 5.03 because too many were under way, or came too fast."""
    failed_logins: int = 0
    violations: int = 0
    """Datagrams that are no message, or that break a limit."""
    trespasses: int = 0
    """Attempts to reach another device's tree."""
    elsewhere: int = 0
    """Datagrams given to aiocoap."""
    commands: int = 0


class Elsewhere(Protocol):
    """What takes all that the short way does not: `coap_site.CoapSite`."""

    def receive(self, data: bytes, address: Address, device: str, known: bool) -> bool:
        """Take a datagram; `device` is the one whose key it shows in the clear. False if there is no room."""
        ...

    def connected(self) -> frozenset[str]:
        """Devices that observe their commands."""
        ...

    def deliver(self, command: Command) -> bool:
        """As `Outlet.deliver`."""
        ...

    def end(self, device: str) -> None:
        """End what a device observes: it may not be who it was."""
        ...

    async def stop(self) -> None:
        """End all observations."""
        ...


class _Load:
    """What a device has under way."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting = 0


class _Route:
    """What a peer's options mean, as long as it sends the same ones."""

    __slots__ = ("length", "load", "options", "target", "topic", "until")

    def __init__(self, options: bytes, target: Target, load: _Load) -> None:
        self.options = options
        self.length = len(options)
        self.target = target
        self.topic = target.topic
        self.load = load
        self.until = 0
        """When, by the wall clock, its key is void; 0 for never."""


class _Post:
    """A message between its arrival and its answer."""

    __slots__ = ("door", "exchange", "received", "route")

    def __init__(self, door: CoapFrontDoor, exchange: Exchange, route: _Route, received: int) -> None:
        self.door = door
        self.exchange = exchange
        self.route = route
        self.received = received

    def settle(self, verdict: Verdict) -> None:
        """Admission has decided."""
        self.route.load.waiting -= 1
        self.door.settled(self, verdict)


class CoapFrontDoor(asyncio.DatagramProtocol):
    """Listens for devices. Implements `doors.Door`."""

    def __init__(
        self,
        admission: Admission,
        registry: Registry,
        clock: Clock,
        *,
        security: Callable[[str], None],
        log: Callable[[str], None],
        random: Callable[[], float],
        stamps: Stamps,
        limits: CoapLimits | None = None,
        insecure: bool = False,
        elsewhere: Callable[[CoapFrontDoor], Elsewhere] | None = None,
    ) -> None:
        """`random` gives numbers from 0 to 1; `stamps` are for events without an identity; `elsewhere` makes
        what takes the rest, which is refused without it.
        """
        self.admission = admission
        self.registry = registry
        self.clock = clock
        self.limits = limits or CoapLimits()
        self.security = ThrottledLog(security, clock)
        self.log = ThrottledLog(log, clock)
        self.counters = CoapCounters()
        self.latency = Histogram()
        self.stamps = stamps
        self.on_listening: Callable[[str], None] = _nobody
        """Called with the id of a device that asks for its commands."""
        self.layer = ServerLayer(random, limits=self.limits.layer)
        self.in_flight = 0
        self._insecure = insecure
        self._loads: dict[str, _Load] = {}
        self._ending: dict[str, int] = {}
        """Devices whose key expires, and when by the wall clock: what they observe ends then."""
        self._failures = FailedLogins(clock)
        self._make_elsewhere = elsewhere
        self._elsewhere: Elsewhere | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False
        self._flushing = False
        self._idle = asyncio.Event()
        self._closed = asyncio.Event()
        # Looked up for every message.
        self._monotonic = clock.monotonic
        self._max_datagram = self.limits.max_datagram
        registry.watch(self._device_changed)

    async def start(self, host: str, port: int) -> int:
        """Listen on `host`:`port` (0: any free port); returns the port. Raises EdgeError."""
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self._timer = loop.call_later(TICK, self._on_timer)
        bound: int = self._transport.get_extra_info("sockname")[1]
        return bound

    async def stop(self) -> None:
        """Take no more requests, answer what is being stored, and close."""
        self._stopping = True
        if self.in_flight:
            try:
                await asyncio.wait_for(self._idle.wait(), STOP_TIMEOUT)
            except TimeoutError:
                self.log(f"{self.in_flight} CoAP requests were not answered: what they sent is not stored yet")
        self._flush()
        if self._elsewhere is not None:
            await self._elsewhere.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
            await self._closed.wait()

    def connected(self) -> frozenset[str]:
        """The devices that observe their commands just now."""
        return self._elsewhere.connected() if self._elsewhere is not None else frozenset()

    def deliver(self, command: Command) -> bool:
        """As `Outlet.deliver`."""
        if self._elsewhere is None or not self._elsewhere.deliver(command):
            return False
        self.counters.commands += 1
        return True

    def send(self, data: bytes, address: Address) -> None:
        """Send a datagram; for `coap_site`."""
        if self._transport is not None:
            self._transport.sendto(data, address)

    def tick(self) -> None:
        """Let what is due be sent, and what has expired end, by the clock's time; called four times a second."""
        if self._ending:
            now = self.clock.now()
            for device in [device for device, until in self._ending.items() if now >= until]:
                del self._ending[device]
                self._end(device)
        self.layer.tick(self._monotonic())
        self._flush()

    def _on_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK, self._on_timer)
        self.tick()

    def _device_changed(self, device: str) -> None:
        self.layer.forget_routes()
        self._end(device)

    def _end(self, device: str) -> None:
        if self._elsewhere is not None:
            self._elsewhere.end(device)

    def lets_observe(self, login: Login) -> None:
        """A device has shown a key with a request that may begin an observation; for `coap_site` too."""
        if login.until:
            self._ending[login.device] = login.until
        else:
            self._ending.pop(login.device, None)

    # asyncio.DatagramProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's only looks like one

    def error_received(self, exc: Exception) -> None:
        """Called by asyncio: a peer that is gone; it will not miss its answer."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._transport = None
        self._closed.set()

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Called by asyncio: one datagram."""
        if len(data) < coap.HEADER or data[0] >> 6 != numbers.VERSION or self._stopping:
            return  # section 3: of another version, ignored
        now = self._monotonic()
        if data[1] == numbers.POST and data[0] & 0x2F <= numbers.MAX_TOKEN:  # a CON or NON
            endpoint = self.layer.find(addr)
            start = 4 + (data[0] & 15)
            if endpoint is not None and type(route := endpoint.route) is _Route:
                end = start + route.length
                # What was understood once is not read again. The options may hold a key: compared in constant time.
                if (
                    end + 1 < len(data) <= self._max_datagram
                    and data[end] == numbers.PAYLOAD_MARKER
                    and compare_digest(data[start:end], route.options)
                    and (not route.until or self.clock.now() < route.until)
                ):
                    self._post(route, endpoint, data, data[end + 1 :], now)
                    if self.layer.out:
                        self._flush()
                    return
            self._request(data, addr, now)
        elif data[1] == numbers.EMPTY or data[1] >> 5 in (1, 2, 3, 4, 5, 6, 7):
            self._not_a_request(data, addr)
        else:
            self._request(data, addr, now)
        if self.layer.out:
            self._flush()

    # Requests

    def _not_a_request(self, data: bytes, addr: Address) -> None:
        try:
            message = coap.decode(data)
        except FormatError as error:
            self._violation(data, addr, str(error))
            return
        if message.code == numbers.EMPTY and self.layer.empty(data, addr):
            return
        if message.type == numbers.CON:
            self.layer.reject(data, addr)  # a response that nobody asked for (section 4.2)
        elif message.type in (numbers.ACK, numbers.RST) and self._elsewhere is not None:
            self._elsewhere.receive(data, addr, "", True)

    def _violation(self, data: bytes, addr: Address, why: str) -> None:
        self.counters.violations += 1
        self.log(f"a datagram from {_shown(addr)} is no CoAP message: {why}")
        self.layer.reject(data, addr)

    def _request(self, data: bytes, addr: Address, now: int) -> None:
        try:
            message = coap.decode(data)
        except FormatError as error:
            self._violation(data, addr, str(error))
            return
        layer = self.layer
        if message.type not in (numbers.CON, numbers.NON):
            return  # section 4.2: a request in an ACK or RST is ignored
        if len(data) > self._max_datagram:
            self.counters.violations += 1
            size = coap.uint(self.limits.max_body)
            layer.refuse(data, addr, numbers.REQUEST_ENTITY_TOO_LARGE, [(numbers.SIZE1, size)])
            return
        try:
            target = coap_request.read(message)
        except Refusal as refusal:
            if message.type == numbers.CON or refusal.code != numbers.BAD_OPTION:  # section 5.4.1
                layer.refuse(data, addr, refusal.code)
            return
        login = self._let_in(target, data, addr) if target.device else None
        if target.device and login is None:
            return
        if target.hot and target.verb in (coap_request.OFFER, coap_request.DATA):
            if self.in_pace(target.device, message.payload, message.type == numbers.CON):
                code, body = self.update(target.device, target.verb, message.payload)
                layer.tell(data, addr, code, _CBOR if body else (), body)
            else:
                self._busy(data, addr)
            return
        if target.hot:
            endpoint = layer.endpoint(addr, now)
            start = 4 + len(message.token)
            end = len(data) - len(message.payload) - 1 if message.payload else len(data)
            route = _Route(data[start:end], target, self._loads.setdefault(target.device, _Load()))
            route.until = login.until if login is not None else 0
            if target.identity is None and not target.wrong:
                endpoint.route = route
            self._post(route, endpoint, data, message.payload, now)
            return
        if self._make_elsewhere is not None and self._elsewhere is None:
            self._elsewhere = self._make_elsewhere(self)
        if self._elsewhere is None:
            layer.refuse(data, addr, numbers.code("5.01"))
            return
        self.counters.elsewhere += 1
        if login is not None:
            self.lets_observe(login)
        if not self._elsewhere.receive(data, addr, target.device, bool(target.device)):
            self._busy(data, addr)

    def _let_in(self, target: Target, data: bytes, addr: Address) -> Login | None:
        """Whether the key is the device's. A refusal is told, but not to one who tries on and on."""
        if target.key is not None and (self._insecure or from_here(addr)):
            login = self.registry.login(target.device, target.key)
            if not login.refused:
                return login
            why = login.refused
        elif target.key is not None:
            why = "it shows its key in the clear, which is allowed from this machine only ([coap] insecure)"
        else:
            why = "no key"
        self.counters.failed_logins += 1
        self.security(f"refused {target.device!r} over CoAP from {_shown(addr)}: {why}")
        if not self._failures.delay(str(addr[0])):
            self.layer.refuse(data, addr, numbers.UNAUTHORIZED)
        return None

    def _busy(self, data: bytes, addr: Address) -> None:
        self.counters.busy += 1
        self.layer.refuse(data, addr, numbers.SERVICE_UNAVAILABLE, [(numbers.MAX_AGE, coap.uint(1))])

    def _post(self, route: _Route, endpoint: Endpoint, data: bytes, payload: bytes, now: int) -> None:
        exchange = self.layer.open(endpoint, data, now)
        if exchange is None:
            return
        load = route.load
        if (
            load.waiting >= self.limits.max_in_flight_of_device
            or self.in_flight >= self.limits.max_in_flight
            or not self.in_pace(route.target.device, payload, exchange.confirmable)
        ):
            self.layer.abandon(exchange)
            self._busy(data, endpoint.address)
            return
        load.waiting += 1
        self.in_flight += 1
        self.counters.messages += 1
        self.take(route.target, route.topic, payload, _Post(self, exchange, route, now).settle)

    def in_pace(self, device: str, payload: bytes, confirmable: bool) -> bool:
        """Whether the device may send so much so soon. Who sends a NON does not send it again: that is noted."""
        pace = self.admission.pace
        return pace.take(device, len(payload)) if confirmable else pace.take_or_drop(device, len(payload))

    def take(self, target: Target, topic: str, payload: bytes, settle: Settle) -> None:
        """Hand what a device posted to admission, in whatever form it is; for `coap_site` too."""
        admission, device, form = self.admission, target.device, target.form
        if target.verb == "replies":
            admission.submit_reply(device, payload, topic, settle)
            return
        if target.verb == "state":
            admission.submit_state(device, payload, topic, settle)
            return
        if target.verb == "config/ack":
            admission.submit_config_ack(device, payload, topic, settle)
            return
        if target.verb == "ota/report":
            admission.submit_ota(device, "report", payload, topic, settle)
            return
        if form is Form.ENVELOPE:
            admission.submit(device, target.kind, payload, topic, settle)
            return
        try:
            if form is None:
                raise WireError("its content format is none that is read here")
            if target.wrong:
                raise WireError(target.wrong)
            readings = formats.read(form, target.kind, payload, self.clock.now())
        except WireError as error:
            admission.submit_dead(device, str(error), payload, topic, settle)
            return
        boot, seq = target.identity or self.stamps.take(device, len(readings))
        admission.submit_decoded(device, formats.identified(boot, seq, readings), settle)

    def update(self, device: str, verb: str, payload: bytes) -> tuple[int, bytes]:
        """What is answered to a device that asks what it is offered, or for a piece of it: a code, and a body.

        For `coap_site` too.
        """
        ota = self.admission.ota
        if ota is None:
            return numbers.NOT_FOUND, b""
        if verb == coap_request.OFFER:
            return numbers.CONTENT, ota.offer(device)
        try:
            piece = ota.piece(device, payload, MAX_PIECE)
        except WireError:
            return numbers.BAD_REQUEST, b""
        return (numbers.NOT_FOUND, b"") if piece is None else (numbers.CONTENT, piece)

    def settled(self, post: _Post, verdict: Verdict) -> None:
        """A message has its verdict: answer it."""
        counters = self.counters
        self.in_flight -= 1
        now = self._monotonic()
        if verdict is _ACCEPTED:
            self.layer.answer(post.exchange, numbers.CHANGED, now)
        elif verdict is _DUPLICATE:
            counters.duplicates += 1
            self.layer.answer(post.exchange, numbers.CHANGED, now)
        elif verdict is _DEAD:
            counters.dead += 1
            self.layer.answer(post.exchange, code_of_dead(post.route.target), now)
        else:
            counters.refused += 1
            self.log("a message could not be stored and was answered with 5.03; it is to be sent again")
            self.layer.answer(post.exchange, numbers.SERVICE_UNAVAILABLE, now, _TRY_LATER)
        if verdict is not Verdict.REFUSED:
            counters.acknowledged += 1
            self.latency.record(now - post.received)
        if not self._flushing:
            # All answers of a commit leave together: a peer that wakes does not take the processor from the next one's.
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        if self._stopping and not self.in_flight:
            self._idle.set()

    def _flush(self) -> None:
        self._flushing = False
        out, transport = self.layer.out, self._transport
        if transport is not None:
            for data, address in out:
                transport.sendto(data, address)
        out.clear()


def code_of_dead(target: Target) -> int:
    """What one is told whose message became a dead letter: sending it again would not help."""
    return numbers.BAD_REQUEST if target.form is not None else numbers.UNSUPPORTED_CONTENT_FORMAT


def _nobody(_device: str) -> None:
    """Nobody waits for devices."""


def from_here(addr: Address) -> bool:
    """Whether an address is this machine's own: a network cannot bring a datagram that claims to come from there."""
    host = str(addr[0])
    return host.startswith("127.") or host in ("::1", "::ffff:127.0.0.1")


def _shown(addr: Address) -> str:
    host, port = addr[0], addr[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cannot_listen(host: str, port: int, error: OSError) -> EdgeError:
    where = f"the CoAP front door cannot listen on {host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return EdgeError(f"{where}: the port is in use", hint="Set 'coap.listen' to another port.")
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return EdgeError(f"{where}: {reason}", hint="Set 'coap.listen' to an address and port of this machine.")
