"""MQTT 3.1.1 and 5.0, the server's side, without input or output.

`ServerMachine` is fed the bytes of one connection and gives typed packets; the encoders give bytes to send. What it
does *not* do: sockets, timers (keep-alive), authentication, authorisation, sessions, logging. Those are the front
door's.
"""

from edge_runtime.proto.mqtt import version5
from edge_runtime.proto.mqtt.packets import (
    PINGRESP,
    Auth,
    Connect,
    ConnectCode,
    Disconnect,
    Packet,
    PingReq,
    PubAck,
    PubComp,
    Publication,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
    Will,
    connack,
    puback,
    publish,
    suback,
    unsuback,
)
from edge_runtime.proto.mqtt.properties import Properties
from edge_runtime.proto.mqtt.server import ServerMachine
from edge_runtime.proto.mqtt.topics import matches
from edge_runtime.proto.mqtt.version5 import Reason
from edge_runtime.proto.mqtt.violation import ProtocolViolation

__all__ = [
    "PINGRESP",
    "Auth",
    "Connect",
    "ConnectCode",
    "Disconnect",
    "Packet",
    "PingReq",
    "Properties",
    "ProtocolViolation",
    "PubAck",
    "PubComp",
    "PubRec",
    "PubRel",
    "Publication",
    "Publish",
    "Reason",
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
    "version5",
]
