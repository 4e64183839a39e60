"""The HTTP door of apps: a request becomes an event, its function's answer the response.

A request is committed to the journal before its function runs, and answered once the function's effects are. Whatever
becomes of the connection, the event counts.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import re
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

import h11
import msgspec
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, StorageError
from edge_runtime.events import GATEWAY, Event
from edge_runtime.ingress.http_exchange import Others, Refused, as_json, cancelled, either, problem, read_body
from edge_runtime.ingress.throttle import FailedLogins
from edge_runtime.ingress.tls import Certificates
from edge_runtime.ingress.tokens import Tokens
from edge_runtime.journal.interface import Journal
from edge_runtime.manifest import Endpoint, Manifest
from edge_runtime.throttle import Quiet, ThrottledLog

HEAD_TIME = 10.0
"""Seconds for the head of a request to arrive: whoever takes longer is a slow attacker, or gone."""
MAX_HEAD = 16 << 10
"""Bytes of a request's head."""
MAX_HEADERS = 64
MAX_QUERY = 100
SEEN = frozenset(
    {
        "accept",
        "accept-language",
        "idempotency-key",
        "origin",
        "user-agent",
        "x-event-key",
        "x-github-delivery",
        "x-github-event",
        "x-gitlab-event",
        "x-hub-signature-256",
        "x-request-id",
    }
)
"""Headers that every function gets to see, and those of CloudEvents (`ce-`): none of them lets anybody in anywhere."""

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\x20-\x7e\t]{0,4096}")
_RESERVED = frozenset({"connection", "content-length", "date", "server", "transfer-encoding", "upgrade"})
_BODILESS = (204, 304)

_log = logging.getLogger("edge.http")


class Limits(msgspec.Struct, frozen=True):
    """What the door lets in. Durations in microseconds."""

    timeout: int = 10_000_000
    max_body: int = 256 << 10
    max_requests: int = 64


class _Answer(msgspec.Struct):
    """What a function has answered, as its guest describes it."""

    status: int = 200
    headers: dict[str, str] = {}
    body: str = ""
    base64: bool = False


class EndpointDoor:
    """Implements the port `Answers`. `find` brings a live app's manifest; `boot` is 8 random bytes, new each start."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        tokens: Tokens,
        find: Callable[[str], Manifest | None],
        boot: bytes,
        *,
        security: Callable[[str], None],
        limits: Limits | None = None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._tokens = tokens
        self._find = find
        self._boot = boot
        self._seq = 0
        self._security = ThrottledLog(security, clock)
        self._failures = FailedLogins(clock)
        self._limits = limits or Limits()
        self._waiting: dict[str, asyncio.Future[tuple[Any, str]]] = {}
        self._active = 0
        self.others: Others | None = None
        """Who else answers here: the door of devices that speak HTTP."""
        self._quiet = _Quiet(clock)
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, tls: Certificates | None = None) -> int:
        """Listen, with `tls` for HTTPS; answers the port. Raises EdgeError if that cannot be."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise EdgeError(
                f"the HTTP door cannot listen on {host}:{port}: {error.strerror}", hint="Choose another http.listen."
            ) from None
        listener.listen(128)
        listener.setblocking(False)
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            http=_Protocol,
            ws="none",
            log_config=None,
            lifespan="off",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEAD,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=1,
        )
        config.load()
        made = partial(_Protocol, _Idle(4 * self._limits.max_requests))
        config.http_protocol_class = made  # type: ignore[assignment]  # it is called, no more
        config.ssl = None if tls is None else tls.context  # uvicorn's own settings know nothing of new certificates
        self._server = _Server(config)
        logging.getLogger("uvicorn.error").addFilter(self._quiet)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="http door")
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.001)
        bound: int = listener.getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening; requests under way are answered as if their time were up."""
        for waiting in list(self._waiting.values()):
            waiting.cancel()
        if self.others is not None:
            self.others.stop()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            logging.getLogger("uvicorn.error").removeFilter(self._quiet)

    # For flows

    def waits(self, event: str) -> bool:
        """As `Answers.waits`."""
        return event in self._waiting

    def answer(self, event: str, value: Any, failure: str) -> None:
        """As `Answers.answer`."""
        waiting = self._waiting.get(event)
        if waiting is not None and not waiting.done():
            waiting.set_result((value, failure))

    # Requests

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            try:
                self._check_head(request)
                if self.others is not None and self.others.answers(request.url.path):
                    response = await self.others.respond(request)
                    await response(scope, receive, send)
                    return
                if self._active >= self._limits.max_requests:
                    raise Refused(503, "too many requests at a time", {"retry-after": "1"})
                self._active += 1
                try:
                    response = await self._respond(request)
                finally:
                    self._active -= 1
            except Refused as refused:
                response = refused.response
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("the HTTP door failed on %s", request.method)
            response = problem(500, "the gateway failed inside; its log has the details")
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        app, endpoint = self._endpoint(request)
        if not endpoint.public:
            self._let_in(app, request)
        event = self._event(endpoint, request, await read_body(request, self._limits.max_body, self._clock))
        waiting = self._waiting[event.id] = asyncio.get_running_loop().create_future()
        try:
            try:
                await self._journal.append([event])
            except StorageError as error:
                raise Refused(503, f"the gateway cannot store it just now: {error}", {"retry-after": "10"}) from None
            found = await self._wait(waiting, request)
        finally:
            del self._waiting[event.id]
        if found is None:
            return as_json(202, {"event": event.id, "state": "accepted"})
        value, failure = found
        if failure:
            return as_json(500, {"error": f"the function failed ({failure})", "event": event.id})
        return _response(value, event.id)

    def _check_head(self, request: Request) -> None:
        head_size = sum(len(name) + len(value) for name, value in request.headers.raw)
        if len(request.headers) > MAX_HEADERS or head_size > MAX_HEAD:
            raise Refused(431, f"more than {MAX_HEADERS} headers, or {MAX_HEAD >> 10} KiB of them")

    def _endpoint(self, request: Request) -> tuple[str, Endpoint]:
        """What a request is for, by its path and method."""
        head, app, path = ("", "", "")
        parts = request.url.path.split("/", 3)
        if len(parts) >= 3:
            head, app, path = parts[1], parts[2], "/" + (parts[3] if len(parts) == 4 else "")
        manifest = self._find(app) if head == "apps" else None
        triggers = [] if manifest is None else manifest.triggers
        found = [trigger for trigger in triggers if isinstance(trigger, Endpoint) and trigger.path == path]
        if not found:
            raise Refused(404, "there is no such endpoint")
        for trigger in found:
            if request.method in trigger.methods:
                return app, trigger
        allowed = ", ".join(sorted({method for trigger in found for method in trigger.methods}))
        raise Refused(405, f"this endpoint answers to {allowed}", {"allow": allowed})

    def _let_in(self, app: str, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._tokens.matches(app, token.strip()):
            return
        address = request.client.host if request.client is not None else "unknown"
        delay = self._failures.delay(address)
        self._security(f"a request from {address} to the app '{app}' had no valid token")
        if delay:
            raise Refused(429, "too many requests without a valid token", {"retry-after": str(delay)})
        why = "this endpoint needs the token of the app: Authorization: Bearer ..."
        raise Refused(401, why, {"www-authenticate": "Bearer"})

    def _event(self, endpoint: Endpoint, request: Request, body: bytes) -> Event:
        query: dict[str, Any] = {}
        for number, (name, value) in enumerate(parse_qsl(request.url.query, keep_blank_values=True)):
            if number >= MAX_QUERY:
                raise Refused(414, f"more than {MAX_QUERY} parameters")
            known = query.get(name)
            query[name] = value if known is None else [*known, value] if isinstance(known, list) else [known, value]
        data: dict[str, Any] = {
            "method": request.method,
            "path": endpoint.path,
            "query": query,
            "type": request.headers.get("content-type", "")[:200],
            "headers": {
                name: value
                for name, value in request.headers.items()
                if name in SEEN or name in endpoint.headers or name.startswith("ce-")
            },
        }
        try:
            data.update(body=body.decode(), base64=False)
        except UnicodeDecodeError:
            data.update(body=base64.b64encode(body).decode(), base64=True)
        now = self._clock.now()
        self._seq += 1
        return Event(GATEWAY, self._boot, self._seq, endpoint.kind, now, now, data)

    async def _wait(self, waiting: asyncio.Future[tuple[Any, str]], request: Request) -> tuple[Any, str] | None:
        """The function's answer; None if it takes too long. Whoever has gone waits for nothing."""
        gone = asyncio.ensure_future(request.receive())
        await either(self._clock, waiting, self._limits.timeout, gone)
        left = gone.done() and not waiting.done()
        await cancelled(gone)
        if left:
            raise ClientDisconnect
        return waiting.result() if waiting.done() and not waiting.cancelled() else None


def _response(value: Any, event: str) -> Response:
    """The function's answer as a response. It comes from a guest, and is not believed."""
    try:
        answer = _Answer(204) if value is None else msgspec.convert(value, _Answer)
        body = base64.b64decode(answer.body, validate=True) if answer.base64 else answer.body.encode()
    except (msgspec.ValidationError, ValueError):
        return as_json(500, {"error": "the function answered with something that is no answer", "event": event})
    headers = {name.lower(): text for name, text in answer.headers.items()}
    well_formed = (
        200 <= answer.status <= 599
        and len(headers) <= MAX_HEADERS
        and all(_NAME.fullmatch(name) and _VALUE.fullmatch(text) for name, text in headers.items())
        and not _RESERVED.intersection(headers)
    )
    if not well_formed:
        return as_json(500, {"error": "the function answered with a status or headers that cannot be", "event": event})
    response = Response(b"" if answer.status in _BODILESS else body, answer.status, headers)
    response.headers["x-event"] = event
    return response


class _Idle:
    """The connections whose next request has not come yet; of those there are no more than `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[_Protocol, None] = {}

    def add(self, connection: _Protocol) -> None:
        """One more. A client sends its request at once: who has kept us waiting for longest is the first to go."""
        self._connections[connection] = None
        if len(self._connections) > self._most:
            oldest = next(iter(self._connections))
            del self._connections[oldest]
            oldest.transport.abort()

    def remove(self, connection: _Protocol) -> None:
        """Its request has come, or it has gone."""
        self._connections.pop(connection, None)


class _Protocol(H11Protocol):
    """uvicorn's, and a time for the head of a request: what is begun and not ended holds a connection."""

    def __init__(self, idle: _Idle, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._idle = idle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # theirs is as narrow
        """Called by asyncio."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._idle.remove(self)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Called by uvicorn."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._idle.remove(self)

    def on_response_complete(self) -> None:
        """Called by uvicorn."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._expect_head()

    def _expect_head(self) -> None:
        self._idle.add(self)
        self.loop.call_later(HEAD_TIME, self._check_head, self.cycle)

    def _check_head(self, last: object) -> None:
        if self.cycle is last and not self.transport.is_closing():
            self.transport.close()


class _Quiet(Quiet):
    """uvicorn's lines, bounded; a client that breaks HTTP while it is answered is no defect of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line passes."""
        broken = record.exc_info is not None and isinstance(record.exc_info[1], h11.LocalProtocolError)
        return not broken and super().filter(record)


class _Server(uvicorn.Server):
    """uvicorn inside our loop: signals are the daemon's own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
