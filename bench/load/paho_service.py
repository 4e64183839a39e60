"""The loop as one would build it without a gateway: an MQTT broker, and this service beside it.

Reads `HOST PORT USER PASSWORD` from standard input, subscribes to all events, and orders a fan on where it is warm.
Envelopes, topics and commands are the gateway's own (docs/wire.md).
"""

from __future__ import annotations

import secrets
import socket
import sys
import time
from typing import Any

import cbor2
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def on_connect(client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
    client.subscribe("/devices/+/events/#", qos=1)


def on_subscribe(client: mqtt.Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
    print("ready", flush=True)


def on_message(client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
    event = cbor2.loads(message.payload)
    if event[4]["temperature"] > 30:
        device = message.topic.split("/")[2]
        command = {
            0: secrets.token_bytes(16),
            1: time.time_ns() // 1000 + 60_000_000,
            2: "fan",
            3: {"on": True},
            4: [event[0], event[1]],
        }
        client.publish(f"/devices/{device}/commands/fan", cbor2.dumps(command), qos=1)


def on_socket_open(client: mqtt.Client, userdata: Any, sock: Any) -> None:
    # Without it Nagle's algorithm would hold commands back: the peer is to show its best.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main() -> None:
    host, port, user, password = sys.stdin.readline().split()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="service")
    client.username_pw_set(user, password)
    client.max_inflight_messages_set(1000)
    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_message = on_message
    client.on_socket_open = on_socket_open
    client.connect(host, int(port))
    client.loop_forever()


if __name__ == "__main__":
    main()
