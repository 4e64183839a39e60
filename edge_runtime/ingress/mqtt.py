"""The MQTT front door: devices connect here, and commands leave here; programs with the `app` profile use a broker.

Topics and promises as in `docs/wire.md`. What the standard leaves open, or a device does not need, is decided so:

- A PUBACK leaves when the message is durable. A message that cannot be stored is not acknowledged; the connection stops
  being read and is closed after `MqttLimits.linger`, since most clients send again only on a new connection.
- To devices, QoS 2 is not offered (publishing with it closes the connection, subscriptions are granted QoS 1), nor are
  retained messages (the flag is ignored), wills (ignored, with a line in the log) and sessions (none is ever present:
  commands wait in the outbox and are sent when the device subscribes again).
- Publishing outside its own tree closes a device's connection, subscribing is refused; each is a security-log line.
- One connection per device: a new one takes over from the old one.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from devices.registry import Login, Registry
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, StorageError
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.app_connection import AppConnection
from edge_runtime.ingress.apps import Apps
from edge_runtime.ingress.meters import Counters, Histogram
from edge_runtime.ingress.mqtt_connection import Connection
from edge_runtime.ingress.throttle import FailedLogins
from edge_runtime.ingress.tls import HANDSHAKE_TIMEOUT, Certificates
from edge_runtime.ingress.websocket import WebSocket
from edge_runtime.ingress.wheel import Wheel
from edge_runtime.journal.records import Command
from edge_runtime.throttle import SECOND, ThrottledLog

if TYPE_CHECKING:
    from edge_runtime.ingress.iotcore_connection import Profile

Peer = Connection | AppConnection

MAX_STEP = 2
"""Ticks that pass at most between two turns of the wheel: while the gateway stood still, it did not listen."""
REFUSALS_HELD = 128
"""Connections that wait for their refusal at a time; beyond these a refusal is told at once."""
STOP_TIMEOUT = 5.0
"""Seconds that a stop waits for what is being stored: far beyond a slow SD card's fsync."""


class MqttLimits(msgspec.Struct, frozen=True):
    """Bounds on connections. Times are in whole seconds, sizes in bytes."""

    max_packet: int = 256 << 10
    max_connections: int = 10_000
    max_unacknowledged: int = 256
    """Messages of one connection that wait for the journal before it is read no more (plus those of one segment)."""
    max_unacknowledged_bytes: int = 1 << 20
    max_unacknowledged_total: int = 64 << 20
    """The same over all connections together."""
    connect_timeout: int = 10
    """For the CONNECT to arrive: a board on a bad link needs two or three of them."""
    idle: int = 1200
    """For devices that ask for no keep-alive."""
    linger: int = 5
    """Between a message that could not be stored and the closing of its connection."""
    close_timeout: int = 10
    """For a peer to take the last bytes before its connection is cut."""


class MqttFrontDoor:
    """Listens for devices. Implements `flows.ports.Outlet`."""

    def __init__(
        self,
        admission: Admission,
        registry: Registry,
        clock: Clock,
        *,
        security: Callable[[str], None],
        log: Callable[[str], None],
        limits: MqttLimits | None = None,
        apps: Apps | None = None,
        iotcore: Profile | None = None,
    ) -> None:
        """`security` and `log` take lines of the security and the operations log; both are throttled here.

        `apps` is the profile for programs, `iotcore` that of boards written for Google IoT Core; without them only
        devices of our own are let in.
        """
        self.apps = apps
        self.iotcore = iotcore
        self.admission = admission
        self.registry = registry
        self.clock = clock
        self.limits = limits or MqttLimits()
        self.security = ThrottledLog(security, clock)
        self.log = ThrottledLog(log, clock)
        self.counters = Counters()
        self.latency = Histogram()
        """From the receipt of a message to the writing of its PUBACK."""
        self.on_listening: Callable[[str], None] = _nobody
        """Called with the id of a device that has subscribed to its commands."""
        self.wheel: Wheel[Peer] = Wheel()
        self.unacknowledged = 0
        """Bytes of messages that wait for the journal, over all connections."""
        self.held: set[Peer] = set()
        """Connections that would be read again but for `max_unacknowledged_total`."""
        self.throttled: dict[Connection, int] = {}
        """Connections of devices that were faster than they may be, and until when (monotonic) they are not heard."""
        self.stopping = False
        self._connections: set[Peer] = set()
        self._strangers: dict[Connection, None] = {}
        """Connections that have not shown a key yet, oldest first."""
        self._devices: dict[str, Connection] = {}
        self._until: dict[Connection, int] = {}
        """Connections that end by the wall clock, and when: those of JWTs and of keys that expire."""
        self._failures = FailedLogins(clock)
        self._refusing: set[Connection] = set()
        self._output: list[Peer] = []
        self._acknowledged: list[int] = []
        self._servers: list[asyncio.Server] = []
        self._certificates: list[Certificates] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turned = clock.monotonic()
        self._empty = asyncio.Event()
        self._reading: set[asyncio.Task[None]] = set()
        registry.watch(self._device_changed)
        admission.twin.watch(self._configured)

    async def start(self, host: str, port: int) -> int:
        """Open the door on `host`:`port` (0: any free port); returns the port. Raises EdgeError."""
        bound = await self.listen(host, port)
        self._loop = asyncio.get_running_loop()
        self._turned = self.clock.monotonic()
        self._timer = self._loop.call_later(1.0, self._on_timer)
        return bound

    async def listen(
        self,
        host: str,
        port: int,
        *,
        tls: Certificates | None = None,
        websocket: bool = False,
        setting: str = "mqtt.listen",
    ) -> int:
        """Listen on one more address, with TLS or WebSocket or both; returns the port. Raises EdgeError."""
        loop = asyncio.get_running_loop()

        def made() -> asyncio.Protocol:
            return Connection(self)

        try:
            server = await loop.create_server(
                (lambda: WebSocket(made)) if websocket else made,
                host,
                port,
                backlog=1024,
                ssl=None if tls is None else tls.context,
                ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT,
            )
        except OSError as error:
            raise _cannot_listen(host, port, error, setting) from error
        self._servers.append(server)
        if tls is not None and tls not in self._certificates:
            self._certificates.append(tls)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Take no more connections and messages, acknowledge what is being stored, and close."""
        self.stopping = True
        if self._timer is not None:
            self._timer.cancel()
        for server in self._servers:
            server.close()
        if self._connections:
            for connection in list(self._connections):
                connection.wind_up()
            try:
                await asyncio.wait_for(self._empty.wait(), STOP_TIMEOUT)
            except TimeoutError:
                for connection in list(self._connections):
                    connection.cut()
                await self._empty.wait()

    def connected(self) -> frozenset[str]:
        """The devices that are connected just now."""
        return frozenset(self._devices)

    def deliver(self, command: Command) -> bool:
        """As `Outlet.deliver`."""
        connection = self._devices.get(command.device)
        if connection is None or not connection.deliver(command):
            return False
        self.counters.commands += 1
        return True

    def tell(self, device: str, topic: str, payload: bytes) -> bool:
        """Send a device a message on a topic of its tree, at QoS 0; True if it is connected and wants it."""
        connection = self._devices.get(device)
        return connection is not None and connection.tell(f"/devices/{device}/{topic}", payload)

    def tick(self) -> None:
        """Let deadlines take effect up to the clock's time; called every second."""
        ticks = (self.clock.monotonic() - self._turned) // SECOND
        self._turned += ticks * SECOND
        for _ in range(min(ticks, MAX_STEP)):
            for connection in self.wheel.turn():
                connection.expired()
        if self.throttled:
            moment = self.clock.monotonic()
            for connection in [connection for connection, until in self.throttled.items() if moment >= until]:
                del self.throttled[connection]
                connection.reconsider()
        if self._until:
            now = self.clock.now()
            for connection in [connection for connection, until in self._until.items() if now >= until]:
                del self._until[connection]
                connection.outlived(now)
        for certificates in self._certificates:
            if said := certificates.tick():
                self.log(said)
        if self.apps is not None:
            self.apps.tick()

    def _on_timer(self) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_later(1.0, self._on_timer)
        self.tick()

    def _device_changed(self, device: str) -> None:
        connection = self._devices.get(device)
        if connection is not None:
            connection.release(device, "the device was blocked or removed, or has lost a key")

    # What connections tell

    def joined(self, connection: Connection) -> bool:
        """A connection was made; False if there is no room for it."""
        full = self.counters.connections >= self.limits.max_connections
        self._connections.add(connection)
        self._empty.clear()
        self.counters.connections += 1
        if self.stopping or (full and not self._strangers):
            self._turned_away(connection)
            return False
        if full:
            # A board shows its key at once; who holds a connection without one is the first to go.
            oldest = next(iter(self._strangers))
            self._turned_away(oldest)
            oldest.cut()
        self._strangers[connection] = None
        self.wheel.put(connection)
        return True

    def _turned_away(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        self.counters.turned_away += 1
        self.log(f"a connection from {connection.name} was turned away: {self.limits.max_connections} are open")

    def entered(self, connection: Connection, login: Login) -> None:
        """A device has shown its key; it has one connection, the newest ([MQTT-3.1.4-2])."""
        device = login.device
        self.ends(connection, login.until)
        self.counters.accepted += 1
        self._strangers.pop(connection, None)
        self.registry.last_seen[device] = self.clock.now()
        old = self._devices.get(device)
        if old is not None:
            old.release(device, f"the device connected again, as {connection.name}")
        self._devices[device] = connection

    def ends(self, connection: Connection, until: int) -> None:
        """Have `outlived` of a connection called at a moment of the wall clock, or sooner; 0 for never."""
        if until:
            self._until[connection] = min(until, self._until.get(connection, until))

    def attached(self, connection: Connection, login: Login) -> None:
        """A connection speaks for one more device."""
        old = self._devices.get(login.device)
        if old is not None and old is not connection:
            old.release(login.device, f"the device was attached to {connection.name}")
        self._devices[login.device] = connection
        self.ends(connection, login.until)
        self.registry.last_seen[login.device] = self.clock.now()

    def detached(self, connection: Connection, device: str) -> None:
        """A connection speaks for a device no more."""
        if self._devices.get(device) is connection:
            del self._devices[device]

    def handed_over(self, connection: Connection, heir: AppConnection) -> None:
        """A connection turned out to be a program's."""
        self.counters.accepted += 1
        self.replaced(connection, heir)

    def replaced(self, connection: Connection, heir: Peer) -> None:
        """A connection goes on as another object."""
        self._strangers.pop(connection, None)
        self.wheel.remove(connection)
        self._connections.discard(connection)
        self._connections.add(heir)

    def closing(self, connection: Peer, device: str) -> None:
        """A connection is being closed: nothing is delivered to it any more."""
        self.held.discard(connection)
        if isinstance(connection, AppConnection):
            return
        self._until.pop(connection, None)
        self.throttled.pop(connection, None)
        self._refusing.discard(connection)
        if self._devices.get(device) is connection:
            del self._devices[device]

    def bring_config(self, connection: Connection, device: str) -> None:
        """Read the newest configuration of a device, and hand it to its connection."""
        task = asyncio.ensure_future(self._bring_config(connection, device))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _bring_config(self, connection: Connection, device: str) -> None:
        try:
            found = await self.admission.twin.config(device)
        except StorageError as error:
            self.log(f"the configuration of '{device}' could not be read: {error}")
            return
        if found is not None:
            version, content = found
            connection.deliver_config(version, content.value())

    def _configured(self, device: str) -> None:
        connection = self._devices.get(device)
        if connection is not None:
            connection.configured(device)

    def left(self, connection: Peer, device: str) -> None:
        """A connection is gone."""
        self.closing(connection, device)
        self.wheel.remove(connection)
        self._connections.discard(connection)
        if isinstance(connection, Connection):
            self._strangers.pop(connection, None)
        self.counters.connections -= 1
        if not self._connections:
            self._empty.set()

    def delay_of_refusal(self, connection: Connection, address: str) -> int:
        """Seconds that `connection`, from `address`, waits for its refusal; it is to be closed then."""
        delay = self._failures.delay(address)
        if not delay or len(self._refusing) >= REFUSALS_HELD:
            return 0
        self._refusing.add(connection)
        return delay

    def relax(self) -> None:
        """Something was settled: read again from those held back, if there is room for what they send."""
        if self.unacknowledged <= self.limits.max_unacknowledged_total // 2:
            held, self.held = self.held, set()
            for connection in held:
                connection.reconsider()

    def hold(self, connection: Connection, until: int) -> None:
        """Do not hear a connection before `until`, by the monotonic clock: its device was too fast."""
        self.counters.slowed += 1
        self.throttled[connection] = until

    def note_acknowledged(self, received: int) -> None:
        """A PUBACK goes out with the next flush, for a message of that time."""
        self._acknowledged.append(received)

    def has_output(self, connection: Peer) -> None:
        """A connection has something to send: all of them send at the end of this turn of the loop."""
        if not self._output:
            asyncio.get_running_loop().call_soon(self._flush)
        self._output.append(connection)

    def _flush(self) -> None:
        output, self._output = self._output, []
        for connection in output:
            connection.flush()
        if self._acknowledged:
            now = self.clock.monotonic()
            record = self.latency.record
            for received in self._acknowledged:
                record(now - received)
            self.counters.acknowledged += len(self._acknowledged)
            self._acknowledged.clear()


def _nobody(_device: str) -> None:
    """Nobody waits for devices."""


def _cannot_listen(host: str, port: int, error: OSError, setting: str) -> EdgeError:
    where = f"the MQTT front door cannot listen on {host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return EdgeError(
            f"{where}: the port is in use",
            hint=f"Stop what listens there (another gateway, a broker?), or set '{setting}' to another port.",
        )
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return EdgeError(f"{where}: {reason}", hint=f"Set '{setting}' to an address and port of this machine.")
