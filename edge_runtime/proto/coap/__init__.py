"""CoAP (RFC 7252), the server's side of what is hot, without input or output.

`decode` and `encode` turn datagrams into messages and back; `ServerLayer` is the message layer for requests that are
answered later. What it does *not* do: sockets, clocks, authentication, resources; observe, blockwise and OSCORE are
another's.
"""

from edge_runtime.proto.coap import numbers
from edge_runtime.proto.coap.message import (
    HEADER,
    FormatError,
    Message,
    decode,
    decode_options,
    encode,
    encode_options,
    uint,
)
from edge_runtime.proto.coap.numbers import Transmission, code
from edge_runtime.proto.coap.server import Endpoint, Exchange, LayerLimits, ServerLayer

__all__ = [
    "HEADER",
    "Endpoint",
    "Exchange",
    "FormatError",
    "LayerLimits",
    "Message",
    "ServerLayer",
    "Transmission",
    "code",
    "decode",
    "decode_options",
    "encode",
    "encode_options",
    "numbers",
    "uint",
]
