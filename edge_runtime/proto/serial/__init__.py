"""The serial link of `docs/wire.md`, the gateway's side, without input or output.

`GatewayLink` is fed the bytes of one line and the time, and gives typed happenings; what is to be sent stands in its
`out`. What it does *not* do: open ports, look up keys, decide what a message means, log, read a clock. Those are the
front door's.
"""

from edge_runtime.proto.serial.frames import MAX_WIRE, Refusal, Why, proof
from edge_runtime.proto.serial.link import (
    Delivered,
    Ended,
    GatewayLink,
    Happening,
    Message,
    Proof,
    Ready,
    Text,
)

__all__ = [
    "MAX_WIRE",
    "Delivered",
    "Ended",
    "GatewayLink",
    "Happening",
    "Message",
    "Proof",
    "Ready",
    "Refusal",
    "Text",
    "Why",
    "proof",
]
