"""The HTTP door of devices: events, states, configurations, commands; and the verbs of the retired IoT Core.

It listens together with the endpoints of apps (`endpoints`). An event is answered with 202 (IoT Core's verbs: 200) once
it is durable, never before; what cannot be stored gets a 503 with a Retry-After, and the device keeps it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial

import cbor2
import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from devices.registry import Registry
from devices.twin import BYTES, Content
from edge_runtime import wire
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, StorageError, WireError
from edge_runtime.ingress import formats, http_bodies, http_forms, iotcore
from edge_runtime.ingress.admission import Admission, Settle, Verdict
from edge_runtime.ingress.formats import Form
from edge_runtime.ingress.http_exchange import Refused, as_json, cancelled, either, read_body
from edge_runtime.ingress.http_forms import Target
from edge_runtime.ingress.meters import Histogram
from edge_runtime.ingress.pace import Allowance, Pace
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.ingress.throttle import FailedLogins
from edge_runtime.journal.records import Command
from edge_runtime.throttle import SECOND, ThrottledLog

CBOR = "application/cbor"
LONGEST_WAIT = 60
"""Seconds that a device may have the gateway wait for news."""
MAX_COMMANDS = 32
"""Commands in one answer; the rest wait in the outbox."""
REMEMBERED = 8192
"""Identities in words (of CloudEvents, `Idempotency-Key`) whose numbers are remembered."""
MIN_SHARE = 4
"""Requests that a device may always have open, waiting for their bodies; otherwise a quarter of all."""
TRY_LATER = {"retry-after": "10"}


class HttpCounters(msgspec.Struct):
    """Running totals since the start."""

    messages: int = 0
    """Events, batches, states, replies and acknowledgements received."""
    acknowledged: int = 0
    duplicates: int = 0
    dead: int = 0
    refused: int = 0
    """Messages that could not be stored, answered with 503."""
    busy: int = 0
    """Requests that were told to come back later: too many at a time, or faster than the device may send."""
    failed_logins: int = 0
    commands: int = 0
    """Commands handed to devices."""


class _Poll:
    """A device that asks for its commands, and waits."""

    def __init__(self) -> None:
        self.commands: dict[bytes, Command] = {}
        self.some: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        """End the waiting."""
        if not self.some.done():
            self.some.set_result(None)


class DeviceHttp:
    """Implements `http_exchange.Others`, and `doors.Door` for devices that ask for their commands just now."""

    def __init__(
        self,
        admission: Admission,
        registry: Registry,
        clock: Clock,
        stamps: Stamps,
        *,
        security: Callable[[str], None],
        max_body: int = 256 << 10,
        max_requests: int = 64,
        names: iotcore.Names | None = None,
    ) -> None:
        """`names` opens the verbs of IoT Core. As many devices as `max_requests` may wait for news at a time."""
        self.on_listening: Callable[[str], None] = lambda _device: None
        """Called with the id of a device that asks for its commands."""
        self.counters = HttpCounters()
        self.latency = Histogram()
        """From the whole message to its verdict."""
        self._admission = admission
        self._registry = registry
        self._clock = clock
        self._stamps = stamps
        self._security = ThrottledLog(security, clock)
        self._failures = FailedLogins(clock)
        self._max_body = max_body
        self._max_requests = max_requests
        self._names = names
        self._bridge_pace = Pace(
            clock, lambda _: Allowance(iotcore.EVENTS_PER_SECOND, iotcore.BYTES_PER_SECOND, SECOND)
        )
        self._state_pace = Pace(clock, lambda _: Allowance(iotcore.STATES_PER_SECOND, 0, 0))
        self._active = 0
        self._bodies: Counter[str] = Counter()
        """Requests of each device that have not come whole."""
        self._waiting = 0
        self._polls: dict[str, _Poll] = {}
        self._watched: dict[str, set[asyncio.Future[None]]] = {}
        """Who waits for a newer configuration of a device."""
        self._named: OrderedDict[tuple[str, str], tuple[bytes, int]] = OrderedDict()
        admission.twin.watch(self._configured)
        registry.watch(self._device_changed)

    # As a door

    def connected(self) -> frozenset[str]:
        """As `Door.connected`."""
        return frozenset(self._polls)

    def deliver(self, command: Command) -> bool:
        """As `Outlet.deliver`: into the answer of a device that is asking."""
        poll = self._polls.get(command.device)
        if poll is None or (len(poll.commands) >= MAX_COMMANDS and command.id not in poll.commands):
            return False
        poll.commands[command.id] = command
        self.counters.commands += 1
        poll.wake()
        return True

    def stop(self) -> None:
        """End all waiting."""
        for poll in self._polls.values():
            poll.wake()
        for device in list(self._watched):
            self._configured(device)

    # Requests

    def answers(self, path: str) -> bool:
        """As `Others.answers`."""
        return path.startswith("/devices/") or (self._names is not None and path.startswith("/v1"))

    async def respond(self, request: Request) -> Response:
        """As `Others.respond`."""
        target = http_forms.target(request.url.path)
        bridge = target is not None and bool(target.path)
        try:
            if target is None or (bridge and self._names is None):
                raise Refused(404, "there is nothing here")
            if request.method != target.method:
                raise Refused(405, f"this place answers to {target.method}", {"allow": target.method})
            if self._active >= self._max_requests:
                self.counters.busy += 1
                raise Refused(503, "too many requests at a time", {"retry-after": "1"})
            self._active += 1
            try:
                device = self._let_in(target, request)
                if bridge:
                    return await self._bridge(target, device, request)
                return await self._plain(target, device, request)
            finally:
                self._active -= 1
        except Refused as refused:
            if not bridge:
                raise
            return as_json(refused.status, http_forms.google_error(refused.status, refused.why), refused.headers)

    async def _body(self, device: str, request: Request, limit: int) -> bytes:
        """The body of a request. No device has more than a quarter of all requests open, waiting for theirs."""
        if self._bodies[device] >= max(self._max_requests // 4, MIN_SHARE):
            self.counters.busy += 1
            raise Refused(503, "too many requests of this device at a time", {"retry-after": "1"})
        self._bodies[device] += 1
        try:
            return await read_body(request, limit, self._clock)
        finally:
            self._bodies[device] -= 1
            if not self._bodies[device]:
                del self._bodies[device]

    def _let_in(self, target: Target, request: Request) -> str:
        """The device that speaks: that of the path, with one of its keys."""
        device, wrong, status = target.device, "", 401
        if target.path and self._names is not None:
            try:
                device = self._names.device(target.path)
            except WireError as error:
                device, wrong, status = "a client", str(error), 403
        if not wrong:
            secret = _secret(request)
            login = self._registry.login(device, secret) if secret else None
            wrong = "no key: Authorization: Bearer ..." if login is None else login.refused
        if not wrong:
            self._registry.last_seen[device] = self._clock.now()
            return device
        self.counters.failed_logins += 1
        address = request.client.host if request.client is not None else "unknown"
        delay = self._failures.delay(address)
        self._security(f"refused {device[:128]!a} over HTTP from {address}: {wrong}")
        if delay:
            raise Refused(429, "too many requests without a valid key", {"retry-after": str(delay)})
        if status == 403:
            raise Refused(403, wrong)
        raise Refused(401, "this needs a key of the device: Authorization: Bearer ...", {"www-authenticate": "Bearer"})

    async def _plain(self, target: Target, device: str, request: Request) -> Response:
        match target.verb:
            case "commands":
                return await self._commands(device, request)
            case "config":
                return await self._config(device, request)
        body = await self._body(device, request, self._max_body)
        if not self._admission.pace.take(device, len(body)):
            self.counters.busy += 1
            raise Refused(429, "the device sends faster than it may", {"retry-after": "1"})
        topic, media = request.url.path, request.headers.get("content-type", "")
        match target.verb:
            case "events":
                return await self._events(target, device, request, body)
            case "state":
                await self._report(device, http_bodies.state(media, body))
                return as_json(202, {"state": "accepted"})
            case "replies":
                verdict = await self._settled(
                    partial(self._admission.submit_reply, device, http_bodies.reply(media, body), topic)
                )
            case _:
                verdict = await self._settled(
                    partial(self._admission.submit_config_ack, device, http_bodies.config_ack(media, body), topic)
                )
        return _verdict(verdict, "it is not of the form for this place")

    # Events

    async def _events(self, target: Target, device: str, request: Request, body: bytes) -> Response:
        admission, topic = self._admission, request.url.path
        form = http_forms.form(media := request.headers.get("content-type", ""))
        status, why = 400, ""
        try:
            envelope = self._envelope(target, device, request, body, form, media)
        except WireError as error:
            status, why = 415 if form is None and "cloudevents" not in media else 400, str(error)
            verdict = await self._settled(partial(admission.submit_dead, device, why, body, topic))
        else:
            if envelope is None:
                try:
                    envelope = wire.decode_events(body, target.kind)
                except WireError as error:
                    why = str(error)
            submit = (
                partial(admission.submit_dead, device, why, body, topic)
                if envelope is None
                else partial(admission.submit_decoded, device, envelope)
            )
            verdict = await self._settled(submit)
        return _verdict(verdict, why or "another event has this identity, or it is not what its kind asks for", status)

    def _envelope(
        self, target: Target, device: str, request: Request, body: bytes, form: Form | None, media: str
    ) -> wire.Envelope | None:
        """What came, as our envelope; None if it is one already. Raises WireError."""
        name = media.partition(";")[0].strip().lower()
        if name in (http_forms.STRUCTURED, http_forms.BATCH):
            named = http_forms.cloud_events(body, target.kind, batch=name == http_forms.BATCH)
            return self._by_name(device, named)
        if "ce-specversion" in request.headers:
            return self._by_name(device, [http_forms.binary_cloud_event(request.headers, body, target.kind)])
        if form is Form.ENVELOPE:
            return None
        if form is None:
            raise WireError(f"the content type {media[:80]!a} is none that is read here")
        identity = http_forms.identity(request.query_params)
        readings = formats.read(form, target.kind, body, self._clock.now())
        if identity is None and (key := request.headers.get("idempotency-key", "")[: http_forms.MAX_ID]):
            identity = self._identity(device, f"\n{key}", len(readings))
        boot, seq = identity or self._stamps.take(device, len(readings))
        return formats.identified(boot, seq, readings)

    def _by_name(self, device: str, named: list[tuple[str, wire.Reading]]) -> wire.Envelope:
        identified = [(self._identity(device, name, 1), reading) for name, reading in named]
        readings = [msgspec.structs.replace(reading, seq=seq) for (_, seq), reading in identified]
        return wire.Envelope(identified[0][0][0], readings)

    def _identity(self, device: str, name: str, count: int) -> tuple[bytes, int]:
        """The same numbers for the same name, while it is remembered."""
        identity = self._named.pop((device, name), None) or self._stamps.take(device, count)
        self._named[device, name] = identity
        if len(self._named) > REMEMBERED:
            self._named.popitem(last=False)
        return identity

    async def _settled(self, submit: Callable[[Settle], None]) -> Verdict:
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        counters, began = self.counters, self._clock.monotonic()
        counters.messages += 1
        submit(partial(_resolve, future))
        verdict = await future
        if verdict is Verdict.REFUSED:
            counters.refused += 1
            raise Refused(503, "the gateway cannot store it just now; keep it, and send it again", TRY_LATER)
        counters.acknowledged += 1
        counters.duplicates += verdict is Verdict.DUPLICATE
        counters.dead += verdict is Verdict.DEAD
        self.latency.record(self._clock.monotonic() - began)
        return verdict

    async def _report(self, device: str, content: Content) -> None:
        self.counters.messages += 1
        try:
            await self._admission.twin.report(device, content)
        except StorageError:
            self.counters.refused += 1
            raise Refused(503, "the gateway cannot store it just now; keep it, and send it again", TRY_LATER) from None
        except EdgeError as error:
            raise Refused(400, str(error)) from None
        self.counters.acknowledged += 1

    # Configurations and commands

    async def _config(self, device: str, request: Request) -> Response:
        known = _number(request.query_params, "version", 2**62)
        found = await self._newest(device, known, request)
        if found is None:
            raise Refused(404, "the device has no configuration")
        version, content = found
        if 0 < version <= known:
            return Response(status_code=304, headers={"etag": f'"{version}"'})
        value, headers = content.value(), {"etag": f'"{version}"'}
        if CBOR in request.headers.get("accept", ""):
            return Response(wire.encode_config(version, value), 200, headers, media_type=CBOR)
        named = {"base64": base64.b64encode(content.data).decode()} if content.form == BYTES else {"config": value}
        return as_json(200, {"version": version, **named}, headers)

    async def _newest(self, device: str, known: int, request: Request) -> tuple[int, Content] | None:
        """The newest configuration, for which a device that asked for it waits until it is newer than `known`."""
        seconds = _number(request.query_params, "wait", LONGEST_WAIT)
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watched.setdefault(device, set()).add(changed)
        try:
            found = await self._read_config(device)
            if seconds and (found is None or found[0] <= known):
                await self._wait(device, changed, seconds, request)
                found = await self._read_config(device)
        finally:
            watching = self._watched[device]
            watching.discard(changed)
            if not watching:
                del self._watched[device]
        return found

    async def _read_config(self, device: str) -> tuple[int, Content] | None:
        try:
            return await self._admission.twin.config(device)
        except StorageError:
            raise Refused(503, "the gateway cannot read it just now", TRY_LATER) from None

    def _configured(self, device: str) -> None:
        for waiting in self._watched.get(device, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def _commands(self, device: str, request: Request) -> Response:
        seconds = _number(request.query_params, "wait", LONGEST_WAIT)
        old = self._polls.pop(device, None)
        if old is not None:
            old.wake()  # one asks at a time, the newest
        poll = self._polls[device] = _Poll()
        try:
            self.on_listening(device)
            if not poll.commands and seconds:
                await self._wait(device, poll.some, seconds, request)
        finally:
            if self._polls.get(device) is poll:
                del self._polls[device]
        commands = list(poll.commands.values())
        if CBOR in request.headers.get("accept", ""):
            encoded = [cbor2.loads(wire.encode_command(http_bodies.message(command))) for command in commands]
            return Response(cbor2.dumps(encoded), 200, media_type=CBOR)
        return as_json(200, [http_bodies.plain_command(command) for command in commands])

    def _device_changed(self, device: str) -> None:
        """It was blocked or removed, or has lost a key: what waits for it looks again."""
        if device in self._polls:
            self._polls[device].wake()
        self._configured(device)

    async def _wait(self, device: str, for_it: asyncio.Future[None], seconds: int, request: Request) -> None:
        """Until it is there, the time is up, or whoever asked has gone. Raises Refused if its key is good no more."""
        if self._waiting >= self._max_requests:
            raise Refused(503, "too many devices wait for news", TRY_LATER)
        gone = asyncio.ensure_future(_gone(request))
        self._waiting += 1
        self._active -= 1
        try:
            await either(self._clock, for_it, gone, seconds * SECOND)
        finally:
            self._active += 1
            self._waiting -= 1
            left = gone.done() and not for_it.done()
            await cancelled(gone)
        if left:
            raise ClientDisconnect
        if refused := self._registry.login(device, _secret(request)).refused:
            self._security(f"a request of {device!a} over HTTP was ended: {refused}")
            raise Refused(401, "the key is good no more", {"www-authenticate": "Bearer"})

    # The verbs of IoT Core

    async def _bridge(self, target: Target, device: str, request: Request) -> Response:
        assert self._names is not None
        if target.verb == "config":
            return await self._bridge_config(device, request)
        limit = iotcore.MAX_EVENT if target.verb == "publishEvent" else iotcore.MAX_STATE
        body = await self._body(device, request, limit * 4 // 3 + 4096)
        bridge_pace = self._bridge_pace if target.verb == "publishEvent" else self._state_pace
        if not bridge_pace.take(device, len(body) * 3 // 4) or not self._admission.pace.take(device, len(body)):
            self.counters.busy += 1
            raise Refused(429, "the device sends faster than it may", {"retry-after": "1"})
        try:
            if target.verb == "setState":
                state = http_forms.set_state(body)
                await self._report(device, Content(BYTES, state))
                return as_json(200, {})
            event = http_forms.publish_event(body)
            envelope = self._names.event(device, event.folder, event.payload, self._stamps.take(device, 1))
        except WireError as error:
            why = str(error)
            await self._settled(partial(self._admission.submit_dead, device, why, body, request.url.path))
            raise Refused(400, why) from None
        verdict = await self._settled(partial(self._admission.submit_decoded, device, envelope))
        if verdict is Verdict.DEAD:
            raise Refused(400, "it is not what its kind asks for; it is kept as a dead letter")
        return as_json(200, {})

    async def _bridge_config(self, device: str, request: Request) -> Response:
        known = _number(request.query_params, "local_version", 2**62)
        found = await self._read_config(device)
        if known:
            with contextlib.suppress(StorageError):  # it will say so again
                await self._admission.twin.acknowledge(device, known)
        version, data = (0, b"") if found is None else (found[0], found[1].data)
        if known and version <= known:
            return Response(status_code=304)
        index = await self._admission.twin.index(device)
        message = {
            "version": str(version),
            "cloudUpdateTime": _moment(index.configs[-1].time) if index.configs else None,
            "deviceAckTime": _moment(index.acknowledged_at) if index.acknowledged_at else None,
            "binaryData": base64.b64encode(data).decode(),
        }
        return as_json(200, {name: value for name, value in message.items() if value is not None})


def _number(query: Mapping[str, str], name: str, limit: int) -> int:
    text = query.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Refused(400, f"'{name}' is not a whole number")
    return min(int(text), limit)


def _verdict(verdict: Verdict, why: str, status: int = 400) -> Response:
    if verdict is Verdict.DEAD:
        raise Refused(status, f"{why}; it is kept as a dead letter, and sending it again would not help")
    return as_json(202, {"state": "duplicate" if verdict is Verdict.DUPLICATE else "accepted"})


def _moment(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat().replace("+00:00", "Z")


def _resolve(future: asyncio.Future[Verdict], verdict: Verdict) -> None:
    if not future.done():
        future.set_result(verdict)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _secret(request: Request) -> str:
    """The key that a request shows; empty for none."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""
