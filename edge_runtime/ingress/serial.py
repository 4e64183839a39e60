"""The serial front door: boards on USB or a UART, as `docs/wire.md` describes it.

Ports are looked for every second, opened with an exclusive lock, and given back when they are gone. On a port where
nobody introduces itself the gateway says nothing. What is decided here beyond that:

- An ACK of a message leaves when the message is durable. One that cannot be stored ends the session; the board keeps
  it and comes again.
- One session per device: a newer one takes over from an older one on another port.
- Text between frames goes to the log, throttled for each port.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from devices.registry import Registry
from edge_runtime import wire
from edge_runtime.clock import Clock
from edge_runtime.errors import StorageError
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.meters import Histogram
from edge_runtime.ingress.serial_find import MAX_PORTS, Listed, SerialRule, find, usb_ports, why_not
from edge_runtime.ingress.serial_port import Opened, SerialPort
from edge_runtime.ingress.throttle import FailedLogins
from edge_runtime.journal.records import Command
from edge_runtime.proto.serial import Why
from edge_runtime.throttle import SECOND, ThrottledLog

SCAN = SECOND
"""How often ports are looked for, microseconds."""
STOP_TIMEOUT = 5.0
"""Seconds that a stop waits for what is being stored."""


class SerialLimits(msgspec.Struct, frozen=True):
    """Bounds on what comes."""

    max_message: int = 256 << 10
    """Bytes of a message; a larger one becomes a dead letter with its beginning."""


class SerialCounters(msgspec.Struct):
    """Running totals since the start, but for the first two."""

    ports: int = 0
    """Open now."""
    boards: int = 0
    """Devices that are there now."""
    accepted: int = 0
    """Sessions of devices with the right key."""
    messages: int = 0
    acknowledged: int = 0
    duplicates: int = 0
    dead: int = 0
    refused: int = 0
    """Messages that could not be stored and were not acknowledged."""
    failed_logins: int = 0
    commands: int = 0
    """Commands handed to devices."""
    damaged: int = 0
    """Pieces that were neither frame nor text."""
    repeats: int = 0
    """Frames that boards sent again."""
    stray: int = 0
    """Frames that did not belong where they came."""


class SerialFrontDoor:
    """Looks for boards. Implements `flows.ports.Outlet`."""

    def __init__(
        self,
        admission: Admission,
        registry: Registry,
        clock: Clock,
        rules: Sequence[SerialRule],
        *,
        security: Callable[[str], None],
        log: Callable[[str], None],
        random: Callable[[int], bytes],
        limits: SerialLimits | None = None,
        ports: Callable[[], Iterable[Listed]] = usb_ports,
    ) -> None:
        """`security` and `log` take lines of the security and the operations log; both are throttled here.

        `random` gives that many random bytes, which nobody can foretell: boards are challenged with them.
        """
        self.admission = admission
        self.registry = registry
        self.clock = clock
        self.random = random
        self.limits = limits or SerialLimits()
        self.security = ThrottledLog(security, clock)
        self.log = ThrottledLog(log, clock)
        self.raw_log = log
        """Not throttled: for who does so itself."""
        self.counters = SerialCounters()
        self.latency = Histogram()
        """From the receipt of a message to the sending of its ACK."""
        self.failures = FailedLogins(clock)
        self.on_listening: Callable[[str], None] = _nobody
        """Called with the id of a device that can take commands."""
        self.stopping = False
        self._rules = rules
        self._list = ports
        self._ports: dict[str, SerialPort] = {}
        self._devices: dict[str, SerialPort] = {}
        self._said: dict[str, str] = {}
        """Why a port could not be opened, when that was last said."""
        self._past = {"damaged": 0, "repeats": 0, "stray": 0}
        self._lent: dict[str, int] = {}
        """Ports that somebody else has, and until when by the monotonic clock."""
        self._scanning: asyncio.Task[None] | None = None
        self._reading: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        registry.watch(self._device_changed)
        admission.twin.watch(self._configured)

    async def start(self) -> None:
        """Open what is there, and look for more from then on."""
        await self.scan()
        self._scanning = asyncio.create_task(self._scan_for_ever())

    async def stop(self) -> None:
        """Take no more messages, acknowledge what is being stored, and give the ports back."""
        self.stopping = True
        if self._scanning is not None:
            self._scanning.cancel()
            await asyncio.gather(self._scanning, return_exceptions=True)
        for port in self._ports.values():
            port.still()
        self.settled()
        with contextlib.suppress(TimeoutError):  # what is not acknowledged by then comes again
            await asyncio.wait_for(self._settled.wait(), STOP_TIMEOUT)
        for port in list(self._ports.values()):
            if port.device:
                port.end(Why.STOPPING)
            self._close(port)

    def settled(self) -> None:
        """While stopping: something was stored, or could not be."""
        if not any(port.storing for port in self._ports.values()):
            self._settled.set()

    def connected(self) -> frozenset[str]:
        """The devices that are connected just now."""
        return frozenset(self._devices)

    def deliver(self, command: Command) -> bool:
        """As `Outlet.deliver`."""
        port = self._devices.get(command.device)
        if port is None or not port.deliver(command):
            return False
        self.counters.commands += 1
        return True

    def tell(self, device: str, topic: str, payload: bytes) -> bool:
        """Send a device a message that it asks for again if it gets lost; True if it is on its way."""
        port = self._devices.get(device)
        return port is not None and port.tell(topic, payload)

    def figures(self) -> SerialCounters:
        """The counters, with those of the lines."""
        totals = dict(self._past)
        for port in self._ports.values():
            for name, value in port.counters.items():
                totals[name] += value
        return msgspec.structs.replace(self.counters, ports=len(self._ports), boards=len(self._devices), **totals)

    def lend(self, path: str, seconds: float) -> bool:
        """Leave a port to somebody else for so long (0: no more); True if it was open here.

        Whoever flashes a board needs its port alone, and gives it back when the board is to be heard again.
        """
        real = str(Path(path).resolve())
        now = self.clock.monotonic()
        self._lent = {each: until for each, until in self._lent.items() if until > now}
        if seconds <= 0:
            self._lent.pop(real, None)
            return False
        if len(self._lent) < MAX_PORTS:
            self._lent[real] = now + round(seconds * 1e6)
        port = self._ports.get(real)
        if port is None:
            return False
        self.log(f"{port.name} is lent for {seconds:.0f} s at most")
        if port.device:
            port.end(Why.STOPPING)
        self._close(port)
        return True

    # Ports

    async def _scan_for_ever(self) -> None:
        while True:
            await self.clock.sleep(SCAN)
            await self.scan()
            now = self.clock.now()
            for port in list(self._devices.values()):
                if port.until and now >= port.until:
                    self.log(f"the session of {port.name} was ended: its key has expired")
                    port.end(Why.DEVICE_CHANGED)

    async def scan(self) -> None:
        """Look once for ports that have come."""
        try:
            found = await asyncio.to_thread(find, self._rules, self._list)
        except OSError as error:
            self.log(f"serial ports cannot be listed: {error}")
            return
        self._said = {path: why for path, why in self._said.items() if path in found}
        for path, rule in found.items():
            if path not in self._ports and self.clock.monotonic() >= self._lent.get(path, 0):
                await self._open(path, rule)

    async def _open(self, path: str, rule: SerialRule) -> None:
        opening = asyncio.ensure_future(asyncio.to_thread(_open, path, rule.baud))
        try:
            opened = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_give_back)
            raise
        except (OSError, ValueError) as error:
            why = why_not(path, error) if isinstance(error, OSError) else f"{path} cannot be opened: {error}"
            if self._said.get(path) != why:
                self._said[path] = why
                self.log(why)
            return
        self._said.pop(path, None)
        self._ports[path] = SerialPort(self, path, rule, opened)
        self.log(f"{path} is open (serial.{rule.name})")

    def gone(self, port: SerialPort, why: str) -> None:
        """A port was unplugged, or the like; it is opened again when it is back."""
        self.log(f"{port.name} is gone: {why}")
        self._close(port)

    def _close(self, port: SerialPort) -> None:
        if self._ports.get(port.path) is port:
            del self._ports[port.path]
            for name, value in port.counters.items():
                self._past[name] += value
        port.close()

    # What ports tell

    def entered(self, port: SerialPort, device: str) -> None:
        """A device has shown its key; it has one session, the newest."""
        self.counters.accepted += 1
        self.registry.last_seen[device] = self.clock.now()
        old = self._devices.get(device)
        self._devices[device] = port
        if old is not None and old is not port:
            self.log(f"the session of {old.name} was ended: the device is on {port.path} now")
            old.end(Why.TAKEN_OVER)

    def ready(self, port: SerialPort, configures: bool) -> None:
        """A device can take commands, and its configuration where it wants it."""
        port.configures = configures
        self.on_listening(port.device)
        if configures:
            self.bring_config(port)

    def left(self, port: SerialPort, device: str) -> None:
        """A session is over."""
        if self._devices.get(device) is port:
            del self._devices[device]

    def bring_config(self, port: SerialPort) -> None:
        """Read the newest configuration of the device on a port, and hand it over."""
        task = asyncio.ensure_future(self._bring_config(port, port.device))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _bring_config(self, port: SerialPort, device: str) -> None:
        try:
            found = await self.admission.twin.config(device)
        except StorageError as error:
            self.log(f"the configuration of '{device}' could not be read: {error}")
            return
        if found is not None and port.device == device:
            port.configure(wire.encode_config(found[0], found[1].value()))

    def _configured(self, device: str) -> None:
        port = self._devices.get(device)
        if port is not None and port.configures:
            self.bring_config(port)

    def _device_changed(self, device: str) -> None:
        port = self._devices.get(device)
        if port is not None:
            self.log(f"the session of {port.name} was ended: the device was changed")
            port.end(Why.DEVICE_CHANGED)


def _open(path: str, baud: int) -> Opened:
    # Not imported before it is needed: most gateways have no such port.
    from serial import Serial

    opened: Opened = Serial(path, baud, timeout=0, write_timeout=0, exclusive=True)
    return opened


def _give_back(opening: asyncio.Future[Opened]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _nobody(_device: str) -> None:
    """Nobody waits for devices."""
