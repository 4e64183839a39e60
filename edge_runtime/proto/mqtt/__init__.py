"""MQTT 3.1.1, the server's side, without input or output.

`ServerMachine` is fed the bytes of one connection and gives typed packets; the encoders give bytes to send. What it
does *not* do: sockets, timers (keep-alive), authentication, authorisation, sessions, logging. Those are the front
door's.
"""

from edge_runtime.proto.mqtt.packets import (
    PINGRESP,
    Connect,
    ConnectCode,
    Disconnect,
    Packet,
    PingReq,
    ProtocolViolation,
    PubAck,
    Publish,
    Subscribe,
    Unsubscribe,
    Will,
    connack,
    puback,
    publish,
    suback,
    unsuback,
)
from edge_runtime.proto.mqtt.server import ServerMachine
from edge_runtime.proto.mqtt.topics import matches

__all__ = [
    "PINGRESP",
    "Connect",
    "ConnectCode",
    "Disconnect",
    "Packet",
    "PingReq",
    "ProtocolViolation",
    "PubAck",
    "Publish",
    "ServerMachine",
    "Subscribe",
    "Unsubscribe",
    "Will",
    "connack",
    "matches",
    "puback",
    "publish",
    "suback",
    "unsuback",
]
