"""Keeps what an MQTT broker receives, as one would build it without a gateway: a subscriber that writes into SQLite.

Reads `HOST PORT USER PASSWORD DATABASE` from standard input. What has arrived by now goes into one transaction, made
durable with an fsync, and is acknowledged to the broker afterwards. One thread, so that nothing waits for the GIL.
"""

from __future__ import annotations

import select
import socket
import sqlite3
import sys
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

BATCH = 1000
"""Messages of one commit at most."""


def on_connect(client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
    client.subscribe("/devices/+/events/#", qos=1)


def on_subscribe(client: mqtt.Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
    print("ready", flush=True)


def on_socket_open(client: mqtt.Client, userdata: Any, sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main() -> None:
    host, port, user, password, path = sys.stdin.readline().split()
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, topic TEXT, payload BLOB)")
    database.commit()
    batch: list[mqtt.MQTTMessage] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="writer", manual_ack=True)
    client.username_pw_set(user, password)
    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_socket_open = on_socket_open
    client.on_message = lambda client, userdata, message: batch.append(message)
    client.connect(host, int(port))
    connection = client.socket()
    assert connection is not None
    waiting = select.poll()
    while client.socket() is connection:
        waiting.register(connection, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        for _, happened in waiting.poll(1000):
            if happened & ~select.POLLOUT:
                client.loop_read()
                while len(batch) < BATCH and select.select([connection], [], [], 0)[0]:
                    client.loop_read()
            if happened & select.POLLOUT:
                client.loop_write()
        client.loop_misc()
        if batch:
            with database:
                rows = ((message.topic, message.payload) for message in batch)
                database.executemany("INSERT INTO events (topic, payload) VALUES (?, ?)", rows)
            for message in batch:
                client.ack(message.mid, message.qos)
            batch.clear()


if __name__ == "__main__":
    main()
