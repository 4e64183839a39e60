"""Networks between a board and a gateway, with all that happens to radio: one proxy for TCP, one for UDP (CoAP).

The board is given the proxy's port in place of the gateway's. What the two protocols hide from both ends is hidden here
too: their check-sums turn damage into loss, and TCP turns loss into time and throws duplicates away.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from hil.faults import Faults, InTurn

_CHUNK = 1460
"""Bytes of a piece on TCP: a segment on Ethernet."""
_AGAIN = 0.2
"""Seconds after which TCP sends a segment again (RFC 6298 allows no less than 1; Linux uses this), doubling."""
_AGAIN_MOST = 5.0
_UNSENT = 256 * 1024
"""Bytes under way each way of a connection; beyond these the sender has to wait."""

Address = tuple[str, int]


class FaultyTcp(Faults):
    """Takes connections on `port` and carries them to a target."""

    def __init__(self, host: str, port: int, *, seed: int = 1) -> None:
        """`host` and `port` are the gateway's."""
        super().__init__(seed)
        self.target = (host, port)
        self.port = 0
        """Where boards connect, once started."""
        self.refuses = False
        """Nobody listens: connections are refused by an immediate reset."""
        self.accepted = 0
        """Connections so far."""
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen on a free port of 127.0.0.1; returns it."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    def break_connections(self) -> None:
        """All connections end at once, for both sides, with a reset."""
        for pair in list(self._pairs):
            pair.reset()

    def half_open(self) -> None:
        """All connections carry nothing any more, and neither end is told, not even if the other hangs up."""
        for pair in self._pairs:
            pair.dead = True

    async def stop(self) -> None:
        """Take the network away, connections included."""
        if self._server is not None:
            self._server.close()
        self.break_connections()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # broken connections let go of their sockets in the loop's next turn

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            _reset(writer)
            return
        self.accepted += 1
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        pair = _Pair(writer, far_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._carry(pair, reader, far_writer, False), self._carry(pair, far_reader, writer, True)
            )
        except OSError:
            pass
        finally:
            self._pairs.discard(pair)
            pair.reset()

    async def _carry(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_board: bool
    ) -> None:
        """One direction: a reader, and pieces that wait until they are due."""
        loop = asyncio.get_running_loop()
        turn = InTurn(self, loop.time)
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNSENT // _CHUNK)

        async def hand_on() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(due - loop.time())
                while pair.dead or self.closed(
                    to_board
                ):  # TCP would try for minutes: it all arrives when the cut is mended
                    await asyncio.sleep(0.02)
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

        handing = asyncio.ensure_future(hand_on())
        try:
            while True:
                try:
                    data = await reader.read(_CHUNK)
                except OSError:
                    if not pair.dead:
                        raise
                    data = b""
                await waiting.put((turn.due(len(data), self._held_up()), data))
                if not data:
                    break
            await handing
        finally:
            handing.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await handing

    def _held_up(self) -> float:
        """Seconds until a piece has got through that gets lost or damaged now and then, and is sent again."""
        total, wait = 0.0, _AGAIN
        while self.random.random() < self.loss + self.damage and total < _AGAIN_MOST:
            total += wait
            wait *= 2
        return total


class _Pair:
    """The two halves of a connection."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._writers = (near, far)
        self.dead = False
        """It carries nothing, and neither end is told."""

    def reset(self) -> None:
        """End both at once."""
        for writer in self._writers:
            _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class FaultyUdp(Faults):
    """Takes datagrams on `port` and carries them to a target; each sender has a port of its own, as behind a router."""

    def __init__(self, host: str, port: int, *, seed: int = 1, checksums: bool = True) -> None:
        """`host` and `port` are the gateway's. Without `checksums`, what is damaged arrives: only OSCORE notices."""
        super().__init__(seed)
        self.target = (host, port)
        self.port = 0
        """Where boards send, once started."""
        self.passed = [0, 0]
        """Datagrams from boards and to them that arrived."""
        self._checksums = checksums
        self._near: asyncio.DatagramTransport | None = None
        self._far: dict[Address, asyncio.DatagramTransport] = {}
        self._forgotten: list[asyncio.DatagramTransport] = []
        self._opening: dict[Address, asyncio.Task[asyncio.DatagramTransport]] = {}
        self._free = [0.0, 0.0]

    async def start(self) -> int:
        """Listen on a free port of 127.0.0.1; returns it."""
        loop = asyncio.get_running_loop()
        self._near, _ = await loop.create_datagram_endpoint(lambda: _Ears(self._from_board), ("127.0.0.1", 0))
        self.port = self._near.get_extra_info("sockname")[1]
        return self.port

    def rebind(self) -> None:
        """The router forgets who is who: the next datagram of a board comes to the gateway from another port."""
        self.half_open()
        for transport in self._forgotten:
            transport.close()
        self._forgotten.clear()

    def half_open(self) -> None:
        """The same, and what the gateway sends to the old port gets lost without a word."""
        self._forgotten += self._far.values()
        self._far.clear()

    async def stop(self) -> None:
        """Take the network away."""
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)
        self.rebind()
        if self._near is not None:
            self._near.close()
        await asyncio.sleep(0)  # closed transports let go of their sockets in the loop's next turn

    def _from_board(self, data: bytes, sender: Address) -> None:
        far, opening = self._far.get(sender), self._opening.get(sender)
        if opening is None:
            if far is not None:
                self._send(data, far, None, False)
                return
            opening = self._opening[sender] = asyncio.ensure_future(self._open(sender))

        def opened(task: asyncio.Task[asyncio.DatagramTransport]) -> None:
            self._opening.pop(sender, None)
            if not task.cancelled() and task.exception() is None:
                self._send(data, task.result(), None, False)

        opening.add_done_callback(opened)

    async def _open(self, sender: Address) -> asyncio.DatagramTransport:
        def answered(data: bytes, _: Address) -> None:
            if self._near is not None and self._far.get(sender) is transport:
                self._send(data, self._near, sender, True)

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Ears(answered), remote_addr=self.target)
        self._far[sender] = transport
        return transport

    def _send(self, data: bytes, transport: asyncio.DatagramTransport, to: Address | None, to_board: bool) -> None:
        """Send what is left of a datagram when it is due; datagrams may overtake each other."""
        loop = asyncio.get_running_loop()
        for piece in self.fate(data, to_board):
            if piece != data and self._checksums:
                continue
            due = loop.time() + self.lateness()
            if self.rate:
                due = self._free[to_board] = max(due, self._free[to_board]) + len(piece) / self.rate
            loop.call_at(due, self._arrive, piece, transport, to, to_board)

    def _arrive(self, data: bytes, transport: asyncio.DatagramTransport, to: Address | None, to_board: bool) -> None:
        if not transport.is_closing():
            self.passed[to_board] += 1
            transport.sendto(data, to)


class _Ears(asyncio.DatagramProtocol):
    """Hands datagrams on."""

    def __init__(self, heard: Callable[[bytes, Address], None]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """As asyncio has it."""
        self._heard(data, addr)
