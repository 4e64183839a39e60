"""A receiver that misbehaves on demand, as the real one cannot be asked to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Answer = Callable[["Request"], Awaitable[bytes]]


class Request:
    """What a client sent."""

    def __init__(self, line: str, headers: dict[str, str], body: bytes) -> None:
        self.line = line
        self.headers = headers
        self.body = body


class FaultyReceiver:
    """A small HTTP server on 127.0.0.1 that answers as `answer` says and keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.answer: Answer = self.status("200 OK")
        self.release = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/take?key=secret"

    @staticmethod
    def status(status: str, *headers: str, body: str = "") -> Answer:
        head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, f"content-length: {len(body)}"))

        async def answer(request: Request) -> bytes:
            return f"{head}\r\n{body}".encode()

        return answer

    async def hang(self, request: Request) -> bytes:
        """Answer only once released."""
        await self.release.wait()
        return b""

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def stop(self) -> None:
        assert self._server is not None
        self.release.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                line, *rest = head.strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (item.partition(":") for item in rest)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(line, headers, body)
                self.requests.append(request)
                writer.write(await self.answer(request))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
