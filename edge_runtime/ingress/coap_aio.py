"""aiocoap without a socket: its lower end is the door's, and what it holds is bounded."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

import aiocoap
from aiocoap import error, interfaces
from aiocoap.blockwise import ContinueException, IncompleteException

from edge_runtime.clock import Clock
from edge_runtime.ingress.coap import Address, CoapFrontDoor, from_here
from edge_runtime.proto.coap import Transmission

MAX_ASSEMBLIES = 64
"""Bodies in blocks that are being put together."""
SMALLEST_BLOCK, LARGEST_BLOCK = 0, 6
"""Exponents of block sizes: 16 and 1,024 bytes (RFC 7959 section 2.2)."""
_LIFETIME = Transmission().EXCHANGE_LIFETIME


class Peer(interfaces.EndpointAddress):  # type: ignore[misc]  # aiocoap has no types
    """Where a message came from, and for whom it may speak."""

    scheme = "coap"
    maximum_block_size_exp = LARGEST_BLOCK
    maximum_payload_size = 1024
    is_multicast = False
    is_multicast_locally = False

    def __init__(self, address: Address, device: str) -> None:
        self.address = address
        self.device = device
        # A stranger gets the smallest blocks: hardly more than it sends (RFC 7252 section 11.3).
        if not device and not from_here(address):
            self.maximum_block_size_exp = SMALLEST_BLOCK
            self.maximum_payload_size = 16

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Peer) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    @property
    def hostinfo(self) -> str:
        """As aiocoap wants it."""
        host, port = self.address[0], self.address[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    hostinfo_local = "gateway"
    uri_base_local = "coap://gateway"

    @property
    def uri_base(self) -> str:
        """As aiocoap wants it."""
        return f"coap://{self.hostinfo}"

    @property
    def blockwise_key(self) -> tuple[Address, str]:
        """Only blocks of one peer that shows the same key belong together."""
        return self.address, self.device

    @property
    def authenticated_claims(self) -> list[str]:
        """The device that it may speak for."""
        return [self.device] if self.device else []


class Wire(interfaces.MessageInterface):  # type: ignore[misc]
    """aiocoap's lower end: the door's socket."""

    def __init__(self, door: CoapFrontDoor) -> None:
        self._door = door

    def send(self, message: Any) -> None:
        """Hand a message to the door."""
        self._door.send(message.encode(), message.remote.address)

    async def recognize_remote(self, remote: Any) -> bool:
        """Whether an address is of ours."""
        return isinstance(remote, Peer)

    async def determine_remote(self, message: Any) -> None:
        """Nowhere: the gateway begins no conversation."""

    async def shutdown(self) -> None:
        """Nothing: the socket is the door's."""


class Share:
    """How much aiocoap has to remember: what it was given within one lifetime, of all and of each peer."""

    def __init__(self, clock: Clock, most: int) -> None:
        self._clock = clock
        self._most = most
        self._given: deque[tuple[int, Address]] = deque()
        self._of: dict[Address, int] = {}

    def take(self, address: Address) -> bool:
        """Count a request from there; False if there is no room for it."""
        now = self._clock.monotonic()
        while self._given and self._given[0][0] <= now - _LIFETIME:
            _, old = self._given.popleft()
            self._of[old] -= 1
            if not self._of[old]:
                del self._of[old]
        if len(self._given) >= self._most or self._of.get(address, 0) >= max(self._most // 4, 1):
            return False
        self._given.append((now, address))
        self._of[address] = self._of.get(address, 0) + 1
        return True


class Bodies:
    """Puts bodies together that come in blocks (RFC 7959 section 2.5), within bounds; stands in for aiocoap's spool."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._bodies: OrderedDict[Any, bytearray] = OrderedDict()

    def feed_and_take(self, req: Any) -> Any:
        """The request with its whole body; raises what answers a block that is not the last."""
        block = req.opt.block1
        if block is None:
            return req
        opt = req.opt
        key = (req.remote.blockwise_key, req.code, opt.uri_path, opt.uri_query, opt.content_format)
        if block.block_number == 0:
            self._bodies[key] = bytearray()
            if len(self._bodies) > MAX_ASSEMBLIES:
                self._bodies.popitem(last=False)
        body = self._bodies.get(key)
        if body is None or block.start != len(body):
            raise IncompleteException
        if len(body) + len(req.payload) > self._max_body:
            del self._bodies[key]
            raise _TooLarge
        if block.more and len(req.payload) != block.size:
            raise error.BadRequest
        body += req.payload
        self._bodies.move_to_end(key)
        if block.more:
            raise ContinueException(block)
        del self._bodies[key]
        return req.copy(payload=bytes(body))


class _TooLarge(error.ConstructionRenderableError):  # type: ignore[misc]
    code = aiocoap.REQUEST_ENTITY_TOO_LARGE
