"""What of CoAP the hot path does not do, done by aiocoap: OSCORE, observe (RFC 7641), blockwise (RFC 7959), discovery.

aiocoap gets no socket of its own. The door hands it datagrams that have passed its checks, and sends what it answers;
so both speak from one port. What posts mean is decided by the door's own functions.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import aiocoap
from aiocoap import error, resource
from aiocoap.messagemanager import MessageManager
from aiocoap.numbers.constants import Reliable
from aiocoap.oscore_sitewrapper import OscoreSiteWrapper
from aiocoap.tokenmanager import TokenManager
from aiocoap.transports.oscore import OSCOREAddress
from aiocoap.util.linkformat import Link, LinkFormat

from devices.keys import OscoreContext
from edge_runtime.clock import Clock
from edge_runtime.errors import StorageError
from edge_runtime.ingress import coap_request
from edge_runtime.ingress.admission import Verdict
from edge_runtime.ingress.coap import Address, CoapFrontDoor, code_of_dead
from edge_runtime.ingress.coap_aio import Bodies, Peer, Share, Wire
from edge_runtime.ingress.coap_oscore import Contexts
from edge_runtime.ingress.coap_request import Refusal, Target
from edge_runtime.ingress.http_exchange import either
from edge_runtime.journal.records import Command
from edge_runtime.proto.coap import Message
from edge_runtime.throttle import Quiet
from edge_runtime.wire import CommandMessage, encode_command, encode_config

CBOR = 60
MAX_NOTIFICATION = 1024
"""Bytes of commands in one answer: one datagram. One alone may be larger; beyond a datagram it goes in blocks."""
MAX_COMMANDS = 23
"""In one answer: an array's head is one byte."""
MAX_PROVEN = 4096
SIZE_EXPONENT = 6
"""Of a block: 1,024 bytes."""
FETCH = 10_000_000
"""Microseconds that commands wait for a device to fetch the last block of a large one."""
MAX_BODIES = 64
"""Devices whose newest large answer is kept for them, `max_body` at most each."""


class CoapSite:
    """Implements `coap.Elsewhere`."""

    def __init__(self, door: CoapFrontDoor, clock: Clock, *, oscore: Path) -> None:
        """`oscore`: the folder where security contexts keep their numbers."""
        self.door = door
        self.clock = clock
        self._known = Share(clock, door.limits.max_exchanges_elsewhere)
        self._strangers = Share(clock, door.limits.max_strangers)
        self._contexts = Contexts(oscore, self._find, self._unopened)
        self._proven: OrderedDict[Address, None] = OrderedDict()
        """Where a request came from that OSCORE has shown to be a device's, of late."""
        self.commands = Commands(self)
        self.config = Configs(self)
        self._posts = Posts(self)
        updates = Updates(self)
        self._others = {
            "commands": self.commands,
            "config": self.config,
            coap_request.OFFER: updates,
            coap_request.DATA: updates,
        }
        root = OscoreSiteWrapper(_Root(self), self._contexts)
        logger = logging.getLogger("edge.coap")
        logger.setLevel(logging.WARNING)
        self._quiet = Quiet(clock)
        self._loggers = (logger, logging.getLogger("coap-server.oscore-site"))
        for each in self._loggers:
            each.addFilter(self._quiet)
        self._context = aiocoap.Context(serversite=root, loggername="edge.coap")
        tokens = TokenManager(self._context)
        self._messages = MessageManager(tokens)
        self._messages.message_interface = Wire(door)
        tokens.token_interface = self._messages
        self._context.request_interfaces.append(tokens)

    def receive(self, data: bytes, address: Address, device: str, known: bool) -> bool:
        """As `Elsewhere.receive`."""
        try:
            message = aiocoap.Message.decode(data, remote=Peer(address, device))
        except (error.UnparsableMessage, ValueError):
            return True  # of an option's value, such as a text that is no UTF-8; the door has checked the rest
        share = self._known if known or address in self._proven else self._strangers
        if message.code.is_request() and not share.take(address):
            return False
        self._messages.dispatch_message(message)
        return True

    def connected(self) -> frozenset[str]:
        """As `Elsewhere.connected`."""
        return self.commands.connected()

    def deliver(self, command: Command) -> bool:
        """As `Elsewhere.deliver`."""
        return self.commands.deliver(command)

    async def stop(self) -> None:
        """As `Elsewhere.stop`."""
        await self._context.shutdown()
        self._contexts.close()
        for each in self._loggers:
            each.removeFilter(self._quiet)

    def end(self, device: str) -> None:
        """As `Elsewhere.end`."""
        self.commands.end(device)
        self.config.end(device)

    def _find(self, kid: bytes) -> tuple[str, OscoreContext] | None:
        login, context = self.door.registry.oscore(kid)
        if context is None:
            self.door.counters.failed_logins += 1
            self.door.security(f"refused a request over CoAP in OSCORE: {login.refused}")
            return None
        self.door.lets_observe(login)
        return login.device, context

    def _unopened(self, device: str, why: str) -> None:
        self.door.counters.failed_logins += 1
        self.door.security(f"refused a request over CoAP in OSCORE, in the name of '{device}': {why}")

    def resource(self, request: Any) -> Any:
        """What a request is about. Raises aiocoap's errors."""
        try:
            device, verb, _ = coap_request.place(request.opt.uri_path)
        except Refusal:
            raise error.NotFound from None
        claims = request.remote.authenticated_claims
        if not claims:
            raise error.Unauthorized
        if isinstance(request.remote, OSCOREAddress):
            self._proven[request.remote.underlying_address.address] = None
            if len(self._proven) > MAX_PROVEN:
                self._proven.popitem(last=False)
        if device not in claims:
            self.door.counters.trespasses += 1
            self.door.security(f"device {claims[0]!r} asked over CoAP for what is below /devices/{device}; refused")
            raise error.Forbidden
        return self._others.get(verb, self._posts)


class _Root(resource.Resource):  # type: ignore[misc]
    """Every path there is."""

    def __init__(self, site: CoapSite) -> None:
        super().__init__()
        self._site = site
        self._discovery = resource.WKCResource(_links, impl_info=None)

    async def render_to_pipe(self, pipe: Any) -> None:
        if pipe.request.opt.uri_path == (".well-known", "core"):
            await self._discovery.render_to_pipe(pipe)
            return
        await self._site.resource(pipe.request).render_to_pipe(pipe)


def _links() -> LinkFormat:
    """What `.well-known/core` says (RFC 6690): the paths with a placeholder for the device."""
    forms = "0 42 50 60 110 112 65000"
    return LinkFormat(
        [
            Link("/devices/DEVICE/events", rt="edge.events", ct="50 60 110 112 65000"),
            Link("/devices/DEVICE/events/KIND", rt="edge.event", ct=forms),
            Link("/devices/DEVICE/replies", rt="edge.replies", ct="60"),
            Link("/devices/DEVICE/state", rt="edge.state", ct="60"),
            Link("/devices/DEVICE/config/ack", rt="edge.config.ack", ct="60"),
            Link("/devices/DEVICE/commands", rt="edge.commands", ct="60", obs=None),
            Link("/devices/DEVICE/config", rt="edge.config", ct="60", obs=None),
            Link("/devices/DEVICE/ota/report", rt="edge.ota.report", ct="60"),
            Link("/devices/DEVICE/ota/offer", rt="edge.ota.offer", ct="60"),
            Link("/devices/DEVICE/ota/data", rt="edge.ota.data", ct="60"),
        ]
    )


class Posts(resource.Resource):  # type: ignore[misc]
    """Events, batches and replies."""

    def __init__(self, site: CoapSite) -> None:
        super().__init__()
        self._door = site.door
        self._block1 = Bodies(site.door.limits.max_body)

    async def render_post(self, request: Any) -> Any:
        """Take a message; answer once it is durable."""
        target, door = _target(request), self._door
        confirmable = request.mtype != aiocoap.NON
        if door.in_flight >= door.limits.max_in_flight or not door.in_pace(target.device, request.payload, confirmable):
            door.counters.busy += 1
            return aiocoap.Message(code=aiocoap.SERVICE_UNAVAILABLE, max_age=1)
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        door.counters.messages += 1
        door.in_flight += 1
        door.take(target, target.topic, request.payload, lambda verdict: _resolve(future, verdict))
        try:
            verdict = await asyncio.shield(future)
        finally:
            door.in_flight -= 1
        if verdict is Verdict.REFUSED:
            door.counters.refused += 1
            return aiocoap.Message(code=aiocoap.SERVICE_UNAVAILABLE, max_age=5)
        door.counters.acknowledged += 1
        if verdict is Verdict.DEAD:
            door.counters.dead += 1
            return aiocoap.Message(code=aiocoap.Code(code_of_dead(target)))
        door.counters.duplicates += verdict is Verdict.DUPLICATE
        return aiocoap.Message(code=aiocoap.CHANGED)


def _resolve(future: asyncio.Future[Verdict], verdict: Verdict) -> None:
    if not future.done():
        future.set_result(verdict)


def _target(request: Any) -> Target:
    """What the door's hot path makes of the options, of a request that may have come in blocks or in OSCORE."""
    options = [(int(option.number), option.encode()) for option in request.opt.option_list()]
    plain = Message(0, int(request.code), 0, options=tuple(options))
    try:
        return coap_request.read(plain)
    except Refusal as refusal:
        raise _refused(refusal.code) from None


def _refused(code: int) -> Exception:
    class Refused(error.ConstructionRenderableError):  # type: ignore[misc]
        pass

    Refused.code = aiocoap.Code(code)
    return Refused()


class _Observer:
    """Commands on their way to one observation, or into the answer to one GET."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, bytes] = {}
        self._size = 0
        self.more = asyncio.Event()
        self.ended = False
        """A newer observation of the device has taken its place."""

    def take(self, identity: bytes, encoded: bytes) -> bool:
        """Have room for a command?"""
        if identity not in self._waiting:
            full = len(self._waiting) >= MAX_COMMANDS or self._size + len(encoded) > MAX_NOTIFICATION
            if self._waiting and full:
                return False
            self._waiting[identity] = encoded
            self._size += len(encoded)
        self.more.set()
        return True

    def drain(self) -> bytes:
        """A CBOR array of what there is."""
        waiting, self._waiting, self._size = self._waiting, {}, 0
        self.more.clear()
        return bytes((0x80 | len(waiting),)) + b"".join(waiting.values())


class _Body:
    """An answer that was too large for a datagram, for whoever comes for the rest of it."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.fetched: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self) -> None:
        """Nobody waits for its last block any more."""
        if not self.fetched.done():
            self.fetched.set_result(None)


class Commands(resource.Resource):  # type: ignore[misc]
    """A device's commands: an array of those not sent yet. GET fetches what waits; observe brings each as it comes."""

    def __init__(self, site: CoapSite) -> None:
        super().__init__()
        self._site = site
        self._observers: dict[str, _Observer] = {}
        self._bodies: OrderedDict[str, _Body] = OrderedDict()
        """The newest of each device."""

    def connected(self) -> frozenset[str]:
        """The devices that observe."""
        return frozenset(self._observers)

    def end(self, device: str) -> None:
        """End a device's observation."""
        observer = self._observers.get(device)
        if observer is not None:
            self._over(device, observer)

    def _over(self, device: str, observer: _Observer) -> None:
        observer.ended = True
        observer.more.set()
        if device in self._bodies:
            self._bodies[device].finish()

    def deliver(self, command: Command) -> bool:
        """Take a command for a device that observes, or is asking just now."""
        observer = self._observers.get(command.device)
        if observer is None:
            return False
        message = CommandMessage(command.id, command.expires, command.name, command.args, command.cause)
        encoded = encode_command(message)
        if len(encoded) >= self._site.door.limits.max_body:
            self._site.door.log(f"a command of {len(encoded)} bytes for '{command.device}' is too large for CoAP")
            return False
        return observer.take(command.id, encoded)

    async def render_to_pipe(self, pipe: Any) -> None:
        """Answer once, or until the observation ends."""
        request, door = pipe.request, self._site.door
        if request.code != aiocoap.GET:
            raise error.UnallowedMethod
        device = request.opt.uri_path[1]
        block = request.opt.block2
        if block is not None and block.block_number:
            pipe.add_response(self._block(device, block.block_number, block.size_exponent), is_last=True)
            return
        wanted = SIZE_EXPONENT if block is None else block.size_exponent
        observe = request.opt.observe == 0 and (
            device in self._observers or len(self._observers) < door.limits.max_observers
        )
        before = self._observers.get(device)
        if observe and before is not None:
            self._over(device, before)
        observer = self._observers[device] = _Observer()
        try:
            door.on_listening(device)
            if not observe:
                pipe.add_response(self._answer(device, observer.drain(), wanted), is_last=True)
                return
            number = 0
            while not observer.ended:
                answer = self._answer(device, observer.drain(), wanted)
                answer.opt.observe = number
                answer.transport_tuning = Reliable()
                pipe.add_response(answer, is_last=False)
                number = number + 1 & 0xFFFFFF
                if answer.opt.block2 is not None and answer.opt.block2.more:
                    # Another notification would take the place of what is being fetched.
                    await either(self._site.clock, self._bodies[device].fetched, FETCH)
                await observer.more.wait()
            # Section 4.2 of RFC 7641: a response that is no success ends the observation.
            pipe.add_response(aiocoap.Message(code=aiocoap.SERVICE_UNAVAILABLE, max_age=1), is_last=True)
        finally:
            # The newest observation of a device counts; one that ends does not take a newer one with it.
            if self._observers.get(device) is observer:
                del self._observers[device]
                if before is not None and not observe:
                    self._observers[device] = before

    def _answer(self, device: str, payload: bytes, exponent: int) -> Any:
        """What there is, or its first block (RFC 7959, section 2.6) where it is too large for a datagram."""
        if len(payload) <= self._site.door.limits.max_datagram - 128 and exponent >= SIZE_EXPONENT:
            return _content(payload)
        if device in self._bodies:
            self._bodies.pop(device).finish()
        self._bodies[device] = _Body(payload)
        if len(self._bodies) > MAX_BODIES:
            self._bodies.popitem(last=False)[1].finish()
        return self._block(device, 0, exponent)

    def _block(self, device: str, number: int, exponent: int) -> Any:
        found, size = self._bodies.get(device), 1 << min(exponent, SIZE_EXPONENT) + 4
        if found is None or (number and number * size >= len(found.payload)):
            return aiocoap.Message(code=aiocoap.REQUEST_ENTITY_INCOMPLETE)  # given up; the command comes again
        if (number + 1) * size >= len(found.payload):
            found.finish()
        return _piece(found.payload, number, exponent)


def _piece(body: bytes, number: int, exponent: int) -> Any:
    """A block of an answer; by its tag the blocks of one answer are known (RFC 7959, section 2.4)."""
    exponent = min(exponent, SIZE_EXPONENT)
    size = 1 << exponent + 4
    end = (number + 1) * size
    answer = _content(body[end - size : end])
    answer.opt.etag = _tag(body)
    answer.opt.block2 = (number, end < len(body), exponent)
    return answer


def _tag(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:8]


def _content(payload: bytes) -> Any:
    return aiocoap.Message(code=aiocoap.CONTENT, payload=payload, content_format=CBOR)


class Updates(resource.Resource):  # type: ignore[misc]
    """What a device asks about updates, in OSCORE or in blocks."""

    def __init__(self, site: CoapSite) -> None:
        super().__init__()
        self._door = site.door
        self._block1 = Bodies(site.door.limits.max_body)

    async def render_get(self, request: Any) -> Any:
        """What it is offered."""
        return self._answer(request, coap_request.OFFER)

    async def render_fetch(self, request: Any) -> Any:
        """A piece of that."""
        return self._answer(request, coap_request.DATA)

    def _answer(self, request: Any, verb: str) -> Any:
        if "/".join(request.opt.uri_path[2:]) != verb:
            raise error.UnallowedMethod
        code, body = self._door.update(request.opt.uri_path[1], verb, request.payload)
        return _content(body) if body else aiocoap.Message(code=aiocoap.Code(code))


class Configs(resource.ObservableResource):  # type: ignore[misc]
    """A device's configuration. One too large for a datagram comes as its first block, in a notification too; the rest
    is there for plain GETs (RFC 7959, section 3.4), and is cut from what is configured then: nothing is kept.
    """

    def __init__(self, site: CoapSite) -> None:
        super().__init__()
        self._limit = site.door.limits.max_observers
        self._whole = site.door.limits.max_datagram - 128
        self._twin = site.door.admission.twin
        self._by_device: dict[str, Any] = {}
        self._twin.watch(self.changed)

    async def add_observation(self, request: Any, serverobservation: Any) -> None:
        """As aiocoap wants it."""
        device = request.opt.uri_path[1]

        def gone() -> None:
            if self._by_device.get(device) is serverobservation:
                del self._by_device[device]

        serverobservation.accept(gone)
        older = self._by_device.get(device)
        if older is not None or len(self._by_device) < self._limit:
            self._by_device[device] = serverobservation
            if older is not None:
                # One for each device: nobody would ever end the others.
                older.trigger(aiocoap.Message(code=aiocoap.SERVICE_UNAVAILABLE, max_age=1), is_last=True)
        else:
            serverobservation.deregister("too many observations")

    def observed(self) -> frozenset[str]:
        """The devices that observe."""
        return frozenset(self._by_device)

    def changed(self, device: str) -> None:
        """Tell the device, if it observes."""
        observation = self._by_device.get(device)
        if observation is not None:
            observation.trigger()

    def end(self, device: str) -> None:
        """End a device's observation."""
        observation = self._by_device.pop(device, None)
        if observation is not None:
            observation.trigger(aiocoap.Message(code=aiocoap.UNAUTHORIZED), is_last=True)

    async def needs_blockwise_assembly(self, request: Any) -> bool:
        """As aiocoap asks: no, blocks are cut here."""
        return False

    async def render_to_pipe(self, pipe: Any) -> None:
        """As aiocoap does it; but a request for a later block observes nothing (RFC 7959, section 3.4)."""
        block = pipe.request.opt.block2
        if block is not None and block.block_number:
            pipe.add_response(await self.render(pipe.request), is_last=True)
        else:
            await super().render_to_pipe(pipe)

    async def render_get(self, request: Any) -> Any:
        """The configuration as it stands."""
        try:
            found = await self._twin.config(request.opt.uri_path[1])
        except StorageError:
            raise error.ServiceUnavailable from None
        if found is None:
            raise error.NotFound
        version, content = found
        payload = encode_config(version, content.value())
        block = request.opt.block2
        number, exponent = (0, SIZE_EXPONENT) if block is None else (block[0], min(block[2], SIZE_EXPONENT))
        if _tag(payload) in (request.opt.etags or ()):
            answer = aiocoap.Message(code=aiocoap.VALID)
        elif number and number << exponent + 4 >= len(payload):
            raise error.BadOption  # there is no such block (section 2.3)
        elif number or len(payload) > (self._whole if block is None else 1 << exponent + 4):
            return _piece(payload, number, exponent)
        else:
            answer = _content(payload)
        answer.opt.etag = _tag(payload)
        return answer
