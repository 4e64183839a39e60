"""The message layer of a server (RFC 7252 section 4) for requests that are answered once something is durable.

It remembers what it answered, so that a repetition of a request gets the same answer and does nothing; sends an empty
ACK where the answer takes its time, and the answer later as a CON of its own, repeated until it is acknowledged. Time
is handed in, in microseconds of a clock that does not step; what is to be sent is put into `out`.

It does *not* handle: sockets, clocks, who the peer is and what it may, resources, blockwise transfer, observation.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from edge_runtime.proto.coap.message import encode_options
from edge_runtime.proto.coap.numbers import CON, NON, VERSION, Transmission

_ACK_BIT = VERSION << 6 | 2 << 4
_RST_BIT = VERSION << 6 | 3 << 4

Address = tuple[Any, ...]
"""Of a peer, as the socket names it."""


class LayerLimits(msgspec.Struct, frozen=True):
    """Bounds on what is remembered."""

    endpoints: int = 4096
    """Peers; beyond them the one silent for longest is forgotten."""
    exchanges: int = 65_536
    """Answers kept for repetitions, of all peers; about 150 bytes each."""
    exchanges_of_endpoint: int = 4096
    """The same of one peer: one that keeps to NSTART and waits for its answers stays far below."""
    separate: int = 1024
    """Answers under way as messages of their own; beyond them an answer is sent as a NON, once."""


class Endpoint:
    """One peer: what it was answered of late, in two generations, and what it waits for."""

    __slots__ = ("address", "older", "pending", "recent", "route", "since")

    def __init__(self, address: Address, now: int) -> None:
        self.address = address
        self.recent: dict[int, bytes] = {}
        """By message id; empty for a NON, which is not answered again (section 4.5)."""
        self.older: dict[int, bytes] = {}
        self.since = now
        """When the recent generation began."""
        self.pending: dict[int, Exchange] = {}
        self.route: object = None
        """The caller's: what it knows about this peer."""


class Exchange:
    """A request between its arrival and its answer."""

    __slots__ = ("acknowledged", "answered", "confirmable", "due", "endpoint", "head", "mid")

    def __init__(self, endpoint: Endpoint, data: bytes, mid: int, due: int) -> None:
        first = data[0]
        self.endpoint = endpoint
        self.confirmable = not first & 0x30
        self.head = data[2 : 4 + (first & 15)]
        """Message id and token, as they come back in a piggybacked answer."""
        self.mid = mid
        self.due = due
        """When an empty ACK is to be sent."""
        self.acknowledged = False
        self.answered = False


class _Separate:
    __slots__ = ("address", "attempts", "datagram", "next", "timeout")

    def __init__(self, address: Address, datagram: bytes, timeout: int, now: int) -> None:
        self.address = address
        self.datagram = datagram
        self.timeout = timeout
        self.next = now + timeout
        self.attempts = 0


class ServerLayer:
    """The message layer over one socket. `random` gives numbers from 0 to 1."""

    def __init__(
        self,
        random: Callable[[], float],
        transmission: Transmission | None = None,
        limits: LayerLimits | None = None,
    ) -> None:
        self._random = random
        self._times = transmission or Transmission()
        self._limits = limits or LayerLimits()
        # As plain numbers: they are needed for every message.
        self._lifetime = self._times.EXCHANGE_LIFETIME
        self._empty_ack_after = self._times.EMPTY_ACK_AFTER
        self._generation = max(self._limits.exchanges_of_endpoint // 2, 1)
        self._endpoints: OrderedDict[Address, Endpoint] = OrderedDict()
        self._remembered = 0
        self._waiting: deque[Exchange] = deque()
        self._separate: dict[tuple[Address, int], _Separate] = {}
        self._mid = int(random() * 0xFFFF)
        self.out: list[tuple[bytes, Address]] = []
        """Datagrams to send, and where to; the caller empties it."""
        self.repeats = 0
        """Requests that were repetitions."""

    @property
    def endpoints(self) -> int:
        """Peers remembered."""
        return len(self._endpoints)

    @property
    def remembered(self) -> int:
        """Answers remembered."""
        return self._remembered

    def find(self, address: Address) -> Endpoint | None:
        """The peer at `address`, if it is known."""
        found = self._endpoints.get(address)
        if found is not None:
            self._endpoints.move_to_end(address)
        return found

    def endpoint(self, address: Address, now: int) -> Endpoint:
        """The peer at `address`, made if it is new: to be called for one that has shown who it is."""
        found = self._endpoints.get(address)
        if found is None:
            if len(self._endpoints) >= self._limits.endpoints:
                self._forget_one()  # before the new one is there: it has no request under way yet
            found = self._endpoints[address] = Endpoint(address, now)
        else:
            self._endpoints.move_to_end(address)
        return found

    def forget_routes(self) -> None:
        """Have every peer's route found anew."""
        for endpoint in self._endpoints.values():
            endpoint.route = None

    def open(self, endpoint: Endpoint, data: bytes, now: int) -> Exchange | None:
        """Take a request, a datagram that was found to be one; None for a repetition, which is dealt with."""
        mid = data[2] << 8 | data[3]
        if now - endpoint.since > self._lifetime or len(endpoint.recent) >= self._generation:
            self._turn(endpoint, now)
        if mid in endpoint.pending:
            # Section 4.5: once is enough; an answer, or an empty ACK, is on its way.
            self.repeats += 1
            self._acknowledge_again(endpoint.pending[mid])
            return None
        known = endpoint.recent.get(mid)
        if known is None and endpoint.older:
            known = endpoint.older.get(mid)
        if known is not None:
            self.repeats += 1
            if known and not data[0] & 0x30:
                self.out.append((known, endpoint.address))
            return None
        exchange = Exchange(endpoint, data, mid, now + self._empty_ack_after)
        endpoint.pending[mid] = exchange
        if exchange.confirmable:
            self._waiting.append(exchange)
        return exchange

    def answer(self, exchange: Exchange, code: int, now: int, options: bytes = b"", payload: bytes = b"") -> None:
        """Answer a request: with its ACK if that is still to be sent, else in a message of its own.

        `options`: as `encode_options` gives them. An answer to a NON is a NON (section 5.2.3).
        """
        exchange.answered = True
        endpoint = exchange.endpoint
        endpoint.pending.pop(exchange.mid, None)
        head = exchange.head
        tail = options + b"\xff" + payload if payload else options
        if exchange.confirmable and not exchange.acknowledged:
            datagram = bytes((_ACK_BIT | len(head) - 2, code)) + head + tail
            endpoint.recent[exchange.mid] = datagram
            self.out.append((datagram, endpoint.address))
        else:
            endpoint.recent[exchange.mid] = _empty_ack(head) if exchange.confirmable else b""
            self._answer_separately(endpoint.address, head[2:], code, tail, exchange.confirmable, now)
        self._remembered += 1
        if self._remembered > self._limits.exchanges:
            self._make_room()

    def abandon(self, exchange: Exchange) -> None:
        """Forget a request without an answer, as if it had not arrived."""
        exchange.answered = True
        exchange.endpoint.pending.pop(exchange.mid, None)

    def empty(self, data: bytes, address: Address) -> bool:
        """Take an empty message; False for an ACK or RST of something that this layer did not send."""
        kind = data[0] >> 4 & 3
        if kind == CON:
            self.reject(data, address)  # section 4.3, "CoAP ping"
            return True
        if kind == NON:
            return True  # section 4.3: a NON must not be empty; ignored
        return self._separate.pop((address, data[2] << 8 | data[3]), None) is not None

    def reject(self, data: bytes, address: Address) -> None:
        """Answer a CON with a RST (section 4.2); what is no CON is ignored."""
        if data[0] >> 4 & 3 == CON:
            self.out.append((bytes((_RST_BIT, 0)) + data[2:4], address))

    def refuse(self, data: bytes, address: Address, code: int, options: Iterable[tuple[int, bytes]] = ()) -> None:
        """As `tell`, where there is nothing to be said."""
        self.tell(data, address, code, options)

    def tell(
        self,
        data: bytes,
        address: Address,
        code: int,
        options: Iterable[tuple[int, bytes]] = (),
        payload: bytes = b"",
    ) -> None:
        """Answer a request that changes nothing without remembering it: a repetition is answered anew."""
        length = data[0] & 15
        if data[0] & 0x30:
            self._mid = self._mid + 1 & 0xFFFF
            head = bytes((VERSION << 6 | NON << 4 | length, code)) + self._mid.to_bytes(2) + data[4 : 4 + length]
        else:
            head = bytes((_ACK_BIT | length, code)) + data[2 : 4 + length]
        tail = b"\xff" + payload if payload else b""
        self.out.append((head + encode_options(options) + tail, address))

    def tick(self, now: int) -> None:
        """Send the empty ACKs and the repetitions that are due."""
        waiting = self._waiting
        while waiting and (waiting[0].answered or waiting[0].due <= now):
            exchange = waiting.popleft()
            if not exchange.answered:
                exchange.acknowledged = True
                self.out.append((_empty_ack(exchange.head), exchange.endpoint.address))
        for key, separate in list(self._separate.items()):
            if separate.next > now:
                continue
            if separate.attempts >= self._times.MAX_RETRANSMIT:
                del self._separate[key]
                continue
            separate.attempts += 1
            separate.timeout *= 2
            separate.next = now + separate.timeout
            self.out.append((separate.datagram, separate.address))

    def _acknowledge_again(self, exchange: Exchange) -> None:
        if exchange.acknowledged:
            self.out.append((_empty_ack(exchange.head), exchange.endpoint.address))

    def _answer_separately(
        self, address: Address, token: bytes, code: int, tail: bytes, confirmable: bool, now: int
    ) -> None:
        self._mid = mid = self._mid + 1 & 0xFFFF
        reliable = confirmable and len(self._separate) < self._limits.separate
        kind = CON if reliable else NON
        datagram = bytes((VERSION << 6 | kind << 4 | len(token), code)) + mid.to_bytes(2) + token + tail
        self.out.append((datagram, address))
        if reliable:
            times = self._times
            timeout = round(times.ACK_TIMEOUT * (1 + self._random() * (times.ACK_RANDOM_FACTOR - 1)))
            self._separate[address, mid] = _Separate(address, datagram, timeout, now)

    def _turn(self, endpoint: Endpoint, now: int) -> None:
        # Each answer is kept for one lifetime at least and two at most, or until a full generation came after it.
        self._remembered -= len(endpoint.older)
        endpoint.older = endpoint.recent if now - endpoint.since <= 2 * self._lifetime else {}
        if not endpoint.older:
            self._remembered -= len(endpoint.recent)
        endpoint.recent = {}
        endpoint.since = now

    def _make_room(self) -> None:
        """Forget answers of the peers silent for longest, down to nine tenths of the limit."""
        goal = self._limits.exchanges * 9 // 10
        for endpoint in self._endpoints.values():
            if self._remembered <= goal:
                break
            self._remembered -= len(endpoint.older) + len(endpoint.recent)
            endpoint.older = {}
            endpoint.recent = {}

    def _forget_one(self) -> None:
        for address, endpoint in self._endpoints.items():
            if not endpoint.pending:
                self._remembered -= len(endpoint.older) + len(endpoint.recent)
                del self._endpoints[address]
                return


def _empty_ack(head: bytes) -> bytes:
    return bytes((_ACK_BIT, 0)) + head[:2]
