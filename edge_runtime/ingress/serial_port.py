"""One open serial port: bytes in and out, the session on it, and what waits for the journal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from devices.registry import Login
from edge_runtime import wire
from edge_runtime.events import DEVICE, NAME
from edge_runtime.ingress.admission import Settle, Verdict
from edge_runtime.ingress.serial_find import SerialRule
from edge_runtime.journal.records import Command
from edge_runtime.proto import serial as link
from edge_runtime.throttle import ThrottledLog

if TYPE_CHECKING:
    from edge_runtime.ingress.serial import SerialFrontDoor

CHUNK = 4096
UNSENT = 1024
"""Bytes that a line has not taken, beyond which it is not read: each frame read may want an answer."""
LONGEST_REST = 3_000_000
"""Microseconds that a board which is faster than its pace is not read at a time: less than it waits for an answer."""
LINE = 200
"""Characters of a board's line in the log."""
CONFIG = b"config"
"""What the token of a configuration begins with; commands have ids of 16 bytes."""


class Opened(Protocol):
    """What pyserial's port is used for once it is open."""

    def fileno(self) -> int:
        """Its descriptor, which does not block."""
        ...

    def close(self) -> None:
        """Give the port and its lock back."""
        ...


class SerialPort:
    """A port, from its opening to its unplugging."""

    def __init__(self, door: SerialFrontDoor, path: str, rule: SerialRule, opened: Opened) -> None:
        self.path = path
        self.rule = rule
        self.device = ""
        self.until = 0
        """When the session has to end, by the wall clock; 0 for never."""
        self.configures = False
        """Whether the board wants its configuration."""
        self.storing = 0
        """Messages that wait for the journal."""
        self._door = door
        self._opened: Opened | None = opened
        self._fd = opened.fileno()
        self._link = link.GatewayLink(door.random, max_message=door.limits.max_message)
        self._out = bytearray()
        self._reading = self._writing = False
        self._config_due = False
        self._resting = False
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._says = ThrottledLog(door.raw_log, door.clock)
        self._read(True)

    @property
    def name(self) -> str:
        """The port and who is there, for log lines."""
        return f"'{self.device}' ({self.path})" if self.device else self.path

    @property
    def counters(self) -> dict[str, int]:
        """What was damaged, repeated and out of place on this line."""
        counters = self._link.counters
        return {"damaged": counters.damaged, "repeats": counters.repeats, "stray": counters.stray}

    def close(self) -> None:
        """Give the port back; nothing is heard or said any more."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        self._read(False)
        self._write(False)
        if self._timer is not None:
            self._timer.cancel()
        self._end_session()
        opened.close()

    def end(self, why: link.Why) -> None:
        """End the session and say so to the board; it may begin another."""
        self._link.close(why)
        self._end_session()
        self.pump()

    def still(self) -> None:
        """Hear nothing more: the gateway stops."""
        self._read(False)

    # Bytes

    def _read(self, on: bool) -> None:
        if on != self._reading:
            self._reading = on
            if on:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)

    def _write(self, on: bool) -> None:
        if on != self._writing:
            self._writing = on
            if on:
                self._loop.add_writer(self._fd, self._flush)
            else:
                self._loop.remove_writer(self._fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._door.gone(self, os.strerror(error.errno or 0))
            return
        if not data:
            self._door.gone(self, "hung up")
            return
        now = self._door.clock.monotonic()
        for happening in self._link.feed(data, now):
            self._happened(happening)
        self.pump()

    def _flush(self) -> bool:
        """Write what the line takes; False if it is gone."""
        try:
            written = os.write(self._fd, self._out) if self._out else 0
        except (BlockingIOError, InterruptedError):
            written = 0
        except OSError as error:
            self._door.gone(self, os.strerror(error.errno or 0))
            return False
        del self._out[:written]
        self._write(bool(self._out))
        self._hold()
        return True

    def _hold(self) -> None:
        if not self._door.stopping:
            self._read(len(self._out) <= UNSENT and not self._resting)

    def pump(self) -> None:
        """Send what there is to send, and be back when the link wants it."""
        self._pumping = False
        if self._opened is None:
            return
        now = self._door.clock.monotonic()
        self._link.flush(now)
        self._out += self._link.take()
        if self._out and not self._writing and not self._flush():
            return
        self._hold()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._link.deadline
        if due is not None:
            self._timer = self._loop.call_later(max(0, due - now) / 1e6, self._due)

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self.pump)

    def _due(self) -> None:
        self._timer = None
        for happening in self._link.tick(self._door.clock.monotonic()):
            self._happened(happening)
        self.pump()

    # What the board does

    def _happened(self, happening: link.Happening) -> None:
        match happening:
            case link.Message():
                self._message(happening)
            case link.Delivered():
                if self._config_due:
                    self._door.bring_config(self)
            case link.Text():
                for line in happening.text.splitlines():
                    if line.strip():
                        self._says(f"board on {self.name} says: {_shown(line)}")
            case link.Proof():
                self._asked(happening)
            case link.Ready():
                self._door.ready(self, happening.configures)
            case link.Ended():
                if self.device:
                    self._door.log(f"the session of {self.name} ended: {happening.why}")
                self._end_session()

    def _end_session(self) -> None:
        device, self.device = self.device, ""
        self.until = 0
        self.configures = self._config_due = False
        if device:
            self._door.left(self, device)

    def _asked(self, asked: link.Proof) -> None:
        registry = self._door.registry
        device, digest = asked.device, b""
        if not DEVICE.fullmatch(device):
            login = Login(device, "no device id")
        elif asked.value:

            def made(of: bytes) -> bytes:
                return link.proof(of, b"board", asked.board, asked.gateway, device)

            login, digest = registry.login_by_proof(device, made, asked.value)
        elif self.rule.auth:
            login = Login(device, f"it proves nothing, and serial.{self.rule.name}.auth is not false")
        else:
            login = registry.login_without_proof(device)
        door = self._door
        if login.refused:
            door.counters.failed_logins += 1
            door.security(f"refused {_shown(device)} on {self.path}: {login.refused}")
            delay = door.failures.delay(self.path)
            if delay:
                self._loop.call_later(delay, self._refuse)
            else:
                self._link.refuse()
            return
        self._link.welcome(digest or None, door.clock.monotonic())
        self.device = device
        self.until = login.until
        door.entered(self, device)

    def _refuse(self) -> None:
        self._link.refuse()
        self.pump()

    def _message(self, message: link.Message) -> None:
        door = self._door
        door.counters.messages += 1
        self.storing += 1
        rest = door.admission.pace.spend(self.device, message.size)
        if rest and not self._resting:
            self._resting = True
            self._loop.call_later(min(rest, LONGEST_REST) / 1e6, self._rested)
        topic = f"/devices/{self.device}/{message.topic}"
        settle = partial(self._settled, message.ticket, door.clock.monotonic())
        if message.size > len(message.payload):
            why = f"a message of {message.size} bytes is larger than {door.limits.max_message}, the limit"
            door.admission.submit_dead(self.device, why, message.payload, topic, settle)
        else:
            self._route(message.topic)(message.payload, topic, settle)

    def _rested(self) -> None:
        self._resting = False
        if self._opened is not None:
            self._hold()

    def _route(self, topic: str) -> Callable[[bytes, str, Settle], None]:
        admission, device = self._door.admission, self.device
        place, _, name = topic.partition("/")
        if topic == "events":
            return partial(admission.submit, device, None)
        if place == "events" and NAME.fullmatch(name):
            return partial(admission.submit, device, name)
        if topic == "replies":
            return partial(admission.submit_reply, device)
        if topic == "state":
            return partial(admission.submit_state, device)
        if topic == "config/ack":
            return partial(admission.submit_config_ack, device)
        if place == "ota" and admission.ota is not None:
            return partial(admission.submit_ota, device, name)
        return partial(admission.submit_dead, device, "no event, reply or state belongs on this topic")

    def _settled(self, ticket: int, received: int, verdict: Verdict) -> None:
        self.storing -= 1
        door = self._door
        counters = door.counters
        if verdict is Verdict.REFUSED:
            counters.refused += 1
            if self.device:
                door.log(f"a message of {self.name} could not be stored and was not acknowledged; it comes again")
                self.end(link.Why.NOT_STORED)
        else:
            counters.duplicates += verdict is Verdict.DUPLICATE
            counters.dead += verdict is Verdict.DEAD
            if self._link.acknowledge(ticket):
                counters.acknowledged += 1
                door.latency.record(door.clock.monotonic() - received)
                self.pump()
        if door.stopping:
            door.settled()

    # What the gateway sends

    def deliver(self, command: Command) -> bool:
        """Send a command if there is room for it; True if it is on its way."""
        message = wire.CommandMessage(command.id, command.expires, command.name, command.args, command.cause)
        if not self._link.send(f"commands/{command.name}", wire.encode_command(message), command.id):
            return False
        self._pump_soon()
        return True

    def tell(self, topic: str, payload: bytes) -> bool:
        """Send a message if there is room for it; True if it is on its way."""
        # By its content it is told from others: the same thing is not sent twice while it waits.
        sent = self._link.send(topic, payload, sha256(payload).digest())
        self._pump_soon()
        return sent

    def configure(self, payload: bytes) -> None:
        """Send a configuration, now or as soon as there is room."""
        # A newer one is another message: it must not be taken for the one that is under way.
        self._config_due = not self._link.send("config", payload, CONFIG + payload)
        self._pump_soon()


def _shown(text: str) -> str:
    return ascii(text if len(text) <= LINE else text[:LINE] + "...")
