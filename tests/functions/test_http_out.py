"""The gateway's own client for requests of functions, against a real server on this machine."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest

from edge_runtime.flows.ports import HttpRequest
from edge_runtime.functions import http_out
from edge_runtime.functions.http_out import AppHttp, HttpOut


class Server:
    """Answers by the path; remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.busy = self.most = 0
        self.release = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self.release.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lower = head.lower()
                length = int(lower.partition(b"content-length:")[2].partition(b"\r")[0] or 0)
                body = await reader.readexactly(length) if length else b""
                self.requests.append(head + body)
                self.busy += 1
                self.most = max(self.most, self.busy)
                try:
                    await self._answer(head.split()[1].decode(), head.split()[0], writer)
                finally:
                    self.busy -= 1
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, path: str, method: bytes, writer: asyncio.StreamWriter) -> None:
        status, extra, body = b"200 OK", b"X-Kind: Test\r\n", b'{"ok":true}'
        match path.split("?")[0]:
            case "/wait":
                await self.release.wait()
            case "/big":
                body = b"x" * (http_out.MAX_ANSWER + 1)
            case "/packed":
                extra, body = b"Content-Encoding: gzip\r\n", gzip.compress(b"0" * 50_000_000)
            case "/here":
                status, extra = b"302 Found", b"Location: /there\r\n"
            case "/round":
                status, extra = b"302 Found", b"Location: /round\r\n"
            case "/away":
                status, extra = b"302 Found", b"Location: http://127.0.0.2:1/secret\r\n"
            case "/broken":
                writer.write(b"no http at all\r\n\r\n")
                return
            case "/login":
                extra = b"Set-Cookie: session=s3cret; Path=/\r\n"
            case "/missing":
                status = b"404 Not Found"
        head = b"HTTP/1.1 " + status + b"\r\n" + extra + b"Content-Length: %d\r\n\r\n" % len(body)
        writer.write(head + (b"" if method == b"HEAD" else body))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def out() -> AsyncIterator[HttpOut]:
    out = HttpOut()
    yield out
    await out.aclose()


@pytest.fixture
def client(out: HttpOut) -> AppHttp:
    return out.of("app")


def ask(url: str, method: str = "GET", body: bytes = b"", timeout: int = 5_000_000, **headers: str) -> HttpRequest:
    return HttpRequest(method, url, headers, body, timeout)


async def test_a_request_and_its_answer(server: Server, client: AppHttp) -> None:
    request = ask(f"{server.origin}/a?b=c", "POST", b'{"n":1}', accept="text/x", host="evil", connection="close")
    answer = await client.fetch(request, "key-1")
    assert (answer.status, answer.body, answer.error, answer.headers["x-kind"]) == (200, b'{"ok":true}', "", "Test")
    assert (answer.method, answer.url) == ("POST", f"{server.origin}/a?b=c")
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /a?b=c http/1.1"
    assert body == b'{"n":1}'
    assert {b"idempotency-key: key-1", b"accept: text/x", b"accept-encoding: identity"} < set(lines)
    assert b"evil" not in head


async def test_a_status_is_an_answer(server: Server, client: AppHttp) -> None:
    assert (await client.fetch(ask(f"{server.origin}/missing"), "k")).status == 404
    assert (await client.fetch(ask(f"{server.origin}/a", "HEAD"), "k")).status == 200


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/wait", "did not answer within 0.05 s"),
        ("/big", "more than 1 MiB"),
        ("/packed", "compressed"),
        ("/broken", "cannot be asked"),
    ],
)
async def test_what_goes_wrong_is_said(server: Server, client: AppHttp, path: str, words: str) -> None:
    answer = await client.fetch(ask(server.origin + path, timeout=50_000 if path == "/wait" else 5_000_000), "k")
    assert words in answer.error
    assert (answer.status, answer.body) == (0, b"")


async def test_who_does_not_listen(client: AppHttp) -> None:
    assert "cannot be asked" in (await client.fetch(ask("http://127.0.0.1:1/"), "k")).error
    assert "not a URL" in (await client.fetch(ask("file:///etc/passwd"), "k")).error
    assert "not a URL" in (await client.fetch(ask("http://user:pw@127.0.0.1/"), "k")).error


async def test_what_is_sent_goes_to_the_origin_that_was_compared(server: Server, client: AppHttp) -> None:
    url = server.origin.replace("127.0.0.1", "127.0.0.1.") + "?a=1#fragment"
    assert (await client.fetch(ask(url), "k")).status == 200
    head = server.requests[0].lower()
    assert head.startswith(b"get /?a=1 http/1.1")
    assert b"host: 127.0.0.1:" in head


async def test_redirects_stay_on_the_host(server: Server, client: AppHttp) -> None:
    here = await client.fetch(ask(f"{server.origin}/here", "POST", b"x"), "k")
    assert (here.status, here.url) == (200, f"{server.origin}/here")
    assert [request.split(b" HTTP")[0] for request in server.requests] == [b"POST /here", b"GET /there"]
    away = await client.fetch(ask(f"{server.origin}/away"), "k")
    assert (away.status, away.headers["location"]) == (302, "http://127.0.0.2:1/secret")
    server.requests.clear()
    assert (await client.fetch(ask(f"{server.origin}/round"), "k")).status == 302
    assert len(server.requests) == http_out.MAX_REDIRECTS + 1


async def test_no_cookie_is_kept_or_sent(server: Server, out: HttpOut) -> None:
    login = await out.of("a").fetch(ask(f"{server.origin}/login"), "k")
    assert login.headers["set-cookie"] == "session=s3cret; Path=/"
    for app in ("a", "b"):
        await out.of(app).fetch(ask(f"{server.origin}/a"), "k")
    assert b"s3cret" not in b"".join(server.requests)
    await out.of("a").fetch(ask(f"{server.origin}/a", cookie="session=mine"), "k")
    assert b"session=mine" in server.requests[-1]


async def test_slow_hosts_take_only_the_places_of_their_app(server: Server, out: HttpOut) -> None:
    slow = out.of("slow")
    waiting = [asyncio.ensure_future(slow.fetch(ask(f"{server.origin}/wait"), str(n))) for n in range(20)]
    other = Server()
    await other.start()
    try:
        async with asyncio.timeout(10):
            while server.busy < http_out.MAX_PER_HOST:
                await asyncio.sleep(0)
        for app in ("slow", "quick"):
            assert (await out.of(app).fetch(ask(f"{other.origin}/a"), "k")).status == 200
        late = await slow.fetch(ask(f"{server.origin}/a", timeout=50_000), "k")
        assert late.error == "it waited 0.05 s behind other requests of this app, and was not sent"
        server.release.set()
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
        assert server.most == http_out.MAX_PER_HOST
    finally:
        await other.stop()
