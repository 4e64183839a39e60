"""Attached to a broker that is there already: its messages come in as if through a door of ours.

A message of QoS 1 is acknowledged once it is durable here. The session at the broker outlives both ends: what comes
while the gateway is away waits there, what was not acknowledged comes again. The receive maximum of MQTT 5 bounds what
is under way.

paho-mqtt runs in a thread of its own and does nothing but input and output there; all decisions are made in the event
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from devices.registry import Registry
from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError
from edge_runtime.events import DEVICE, NAME
from edge_runtime.ingress.admission import Admission, Settle, Verdict
from edge_runtime.ingress.controls import Controls
from edge_runtime.ingress.dialects import Dialects
from edge_runtime.throttle import ThrottledLog

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

SESSION_EXPIRY = 7 * 86_400
"""Seconds for which the broker is asked to keep messages while the gateway is away."""
KEEP_ALIVE = 30
LONGEST_PAUSE = 30.0
"""Seconds between two attempts to connect, at most."""
LINGER = 5.0
"""Seconds between a message that could not be stored and the new connection on which it is to come again."""
TURN = 0.2
"""Seconds after which the thread looks whether it is to stop, at the latest."""
MAX_PACKET = 256 << 10
DEVICES = ("/devices/+/events/+", "/devices/+/events")


class Counters(msgspec.Struct):
    """Running totals since the start."""

    connected: int = 0
    """1 while there is a connection."""
    messages: int = 0
    acknowledged: int = 0
    refused: int = 0
    """Messages that could not be stored and were not acknowledged."""
    ignored: int = 0
    """Messages that are no event, nor anything else of ours."""
    dropped: int = 0
    """Messages of QoS 0 given up, since too many waited."""


class Broker(msgspec.Struct, frozen=True):
    """Where the broker is and how it lets us in; files as absolute paths, empty for none."""

    host: str
    port: int
    client_id: str
    tls: bool = False
    user: str = ""
    password_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    group: str = ""
    devices: bool = True
    max_waiting: int = 100


class Attachment:
    """One connection to a broker, made again whenever it is lost."""

    def __init__(
        self,
        broker: Broker,
        admission: Admission,
        registry: Registry,
        dialects: Dialects | None,
        clock: Clock,
        *,
        log: Callable[[str], None],
        security: Callable[[str], None],
        controls: Controls | None = None,
    ) -> None:
        """Raises ConfigError for files that cannot be used."""
        self.counters = Counters()
        self._broker = broker
        self._admission = admission
        self._registry = registry
        self._dialects = dialects
        self._controls = controls
        self.on_connected: Callable[[], None] = lambda: None
        """Called in the event loop whenever there is a connection: the broker may have forgotten what it was told."""
        self._log = ThrottledLog(log, clock)
        self._security = ThrottledLog(security, clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._generation = 0
        """Counts the connections: packet identifiers mean nothing on another one."""
        self._waiting = 0
        self._again = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="attach", daemon=True)
        self._filters = [*(DEVICES if broker.devices else ()), *(dialects.mapper.filters() if dialects else ())]
        self._own_filters = [controls.filter, controls.fence] if controls is not None else []
        """Those that name this gateway, and are not shared with others."""
        self._fence = b""
        """What the gateway has published on this connection, behind all that had waited for it at the broker."""
        self._live = 0
        """The connection on which it has come back: what comes now is of now."""
        self._client = self._made()

    def _made(self) -> Client:
        from paho.mqtt import client as paho  # 2 MB that only those who attach need
        from paho.mqtt.enums import CallbackAPIVersion

        broker = self._broker
        client = paho.Client(CallbackAPIVersion.VERSION2, broker.client_id, protocol=paho.MQTTv5, manual_ack=True)
        if broker.user:
            client.username_pw_set(broker.user, _password(broker.password_file) if broker.password_file else None)
        if broker.tls:
            client.tls_set_context(_tls(broker))
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        # With it, what other threads send is only queued, and the thread of `_run` writes it.
        client.on_socket_register_write = lambda _client, _data, _socket: None
        return client

    def start(self) -> None:
        """Connect, now and whenever the connection is lost, from a thread of its own."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Disconnect; what was not acknowledged comes again another time."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join)
        # paho closes its last sockets when its client goes: nothing is left that points in a circle.
        client, self.on_connected = self._client, lambda: None
        client.on_connect = client.on_disconnect = client.on_message = client.on_subscribe = None

    def publish(self, topic: str, payload: bytes, retain: bool) -> bool:
        """Send a message to the broker, with QoS 0 since a newer one follows; False while there is no connection."""
        if self.counters.connected:
            self._client.publish(topic, payload, 0, retain)
        return bool(self.counters.connected)

    # In the thread

    def _run(self) -> None:
        from paho.mqtt.enums import MQTTErrorCode

        pause = 1.0
        while not self._stop.is_set():
            with self._lock:
                self._generation += 1
            self._again.clear()
            self._fence = secrets.token_bytes(8)
            try:
                self._connect()
            except (OSError, ValueError) as error:
                self._say(f"the broker {self._where} cannot be reached: {error}; it is tried again")
                self._stop.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            while not self._stop.is_set() and not self._again.is_set():
                if self._client.loop(TURN) is not MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
                if self.counters.connected:
                    pause = 1.0
            self.counters.connected = 0
            with contextlib.suppress(OSError, ValueError):
                self._client.disconnect()
                self._client.loop(0)
            if not self._stop.is_set():
                self._stop.wait(LINGER if self._again.is_set() else pause)
                pause = min(pause * 2, LONGEST_PAUSE)

    def _connect(self) -> None:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_EXPIRY
        properties.ReceiveMaximum = self._broker.max_waiting
        properties.MaximumPacketSize = MAX_PACKET
        self._client.connect(self._broker.host, self._broker.port, KEEP_ALIVE, clean_start=False, properties=properties)

    def _on_connect(self, client: Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        from paho.mqtt.subscribeoptions import SubscribeOptions

        if reason.is_failure:
            self._say(f"the broker {self._where} does not let the gateway in: {reason}")
            return
        self.counters.connected = 1
        self._say(f"attached to the broker {self._where}")
        group = f"$share/{self._broker.group}/" if self._broker.group else ""
        # What is retained there was said some time ago: it is not an event of now.
        options = SubscribeOptions(qos=1, noLocal=not group, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        own = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
        if self._filters or self._own_filters:
            shared = [(group + name, options) for name in self._filters]
            client.subscribe([*shared, *((name, own) for name in self._own_filters)])
        self._in_loop(self.on_connected)

    def _on_subscribe(self, client: Client, _data: object, _mid: int, reasons: list[Any], _properties: object) -> None:
        filters = [*self._filters, *self._own_filters]
        refused = [name for name, reason in zip(filters, reasons, strict=False) if reason.is_failure]
        if refused:
            self._say(f"the broker {self._where} does not let the gateway subscribe to {', '.join(refused)}")
        if self._controls is not None:
            client.publish(self._controls.fence, self._fence, 1)

    def _on_disconnect(self, _client: Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        self.counters.connected = 0
        if not self._stop.is_set():
            self._say(f"the connection to the broker {self._where} was lost: {reason}")

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        if not message.qos and self._waiting >= self._broker.max_waiting:
            self.counters.dropped += 1
            return
        with self._lock:
            self._waiting += 1
        self._in_loop(self._take, self._generation, message)

    def _say(self, text: str) -> None:
        self._in_loop(self._log, text)

    def _in_loop(self, what: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the event loop is closed: the gateway has ended
            self._loop.call_soon_threadsafe(what, *arguments)

    # In the event loop

    @property
    def _where(self) -> str:
        return f"{self._broker.host}:{self._broker.port}"

    def _take(self, generation: int, message: MQTTMessage) -> None:
        self.counters.messages += 1
        settle = partial(self._settled, generation, message)
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        if topic.startswith("/devices/") and self._broker.devices:
            self._from_device(topic, message, bytes(message.payload), settle)
        elif self._controls is not None and self._controls.has(topic):
            self._from_control(self._controls, topic, generation, bytes(message.payload), settle)
        elif self._dialects is None or not self._dialects.take(
            topic, bytes(message.payload), settle, certain=message.qos > 0
        ):
            self.counters.ignored += 1
            settle(Verdict.DUPLICATE)

    def _from_device(self, topic: str, message: MQTTMessage, payload: bytes, settle: Settle) -> None:
        _, _, device, place, *kind = topic.split("/")
        record = self._registry.record(device) if DEVICE.fullmatch(device) else None
        if record is None or record.blocked:
            self._security(f"an event for {device[:128]!r} from the broker {self._where}: no such device, or blocked")
            self.counters.ignored += 1
            settle(Verdict.DUPLICATE)
            return
        size = len(payload)
        if message.qos:
            # Not held back: the acknowledgements of all devices together bound what comes from the broker.
            self._admission.pace.spend(device, size)
        elif not self._admission.pace.take_or_drop(device, size):
            settle(Verdict.DUPLICATE)
            return
        if place != "events" or len(kind) > 1 or (kind and not NAME.fullmatch(kind[0])):
            self._admission.submit_dead(device, "no event belongs on this topic", payload, topic, settle)
        else:
            self._admission.submit(device, kind[0] if kind else None, payload, topic, settle)

    def _from_control(self, controls: Controls, topic: str, generation: int, payload: bytes, settle: Settle) -> None:
        if topic == controls.fence:
            if payload == self._fence:
                self._live = generation
        elif self._live != generation:
            # It waited at the broker, nobody knows how long, or was done and comes again: a pump that starts by itself
            # does more harm than a button that has to be pressed again.
            self._log(f"a press of {topic[:256]!r} is left alone: it is from before the connection")
        elif why := controls.take(topic, payload, settle):
            self._security(f"a press of {topic[:256]!r} at the broker {self._where} does nothing: {why}")
        else:
            return
        self.counters.ignored += topic != controls.fence
        settle(Verdict.DUPLICATE)

    def _settled(self, generation: int, message: MQTTMessage, verdict: Verdict) -> None:
        with self._lock:
            self._waiting -= 1
            if verdict is Verdict.REFUSED:
                self.counters.refused += 1
                # A broker sends again only on a new connection.
                self._again.set()
            elif message.qos and generation == self._generation and not self._again.is_set():
                self.counters.acknowledged += 1
                self._client.ack(message.mid, message.qos)


def _password(path: str) -> str:
    try:
        file = Path(path)
        if file.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others can read this password.", hint=f"chmod 600 {path}")
        return file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"'attach.password_file': {path} cannot be read: {error}.") from None


def _tls(broker: Broker) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=broker.ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if broker.certificate:
            context.load_cert_chain(broker.certificate, broker.key or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"'attach': the certificates cannot be used: {error}.") from None
    return context
