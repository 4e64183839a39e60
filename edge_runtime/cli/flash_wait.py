"""Waiting for a board's first event, and what to say when none comes."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from devices.flash.errors import FlashError
from devices.flash.ports import Line as PortLine
from devices.flash.ports import opened
from edge_runtime.planes.client import Client
from edge_runtime.planes.messages import Line, Status

_POLL = 0.3
_TAIL = 4096
_LINES = 8


class Ear:
    """Listens to what a board prints on its port, without saying anything. A context manager."""

    def __init__(self, port: Path | None) -> None:
        self._port = port
        self._line: PortLine | None = None
        self._heard = b""

    def __enter__(self) -> Ear:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            with contextlib.suppress(OSError):
                line.__exit__()

    def listen(self, seconds: float = 0.0) -> None:
        """Listen for a while. The port may go and come: a board with its own USB does so when it starts."""
        end = time.monotonic() + seconds
        while True:
            try:
                if self._line is None and self._port is not None:
                    self._line = opened(self._port)
                if self._line is not None:
                    self._heard = (self._heard + self._line.read())[-_TAIL:]
            except (OSError, FlashError):
                self._close()
            if time.monotonic() >= end:
                return
            if self._line is None:
                time.sleep(min(_POLL, seconds))

    @property
    def said(self) -> list[str]:
        """The board's last lines."""
        return [line for line in self._heard.decode("utf-8", "replace").splitlines() if line.strip()][-_LINES:]


@dataclass(frozen=True)
class First:
    """A board's first event after its start."""

    line: Line
    seconds: float
    """From just before the reset until it was seen in the journal."""


def first_event(client: Client, device: str, before: Status, seconds: float, ear: Ear) -> First:
    """The first event of a device since its start, `before` which the gateway was as it says. Raises FlashError."""
    end = time.monotonic() + seconds
    after = before.head
    while time.monotonic() < end:
        for line in client.tail(after, follow=False):
            after = max(after, line.offset)
            if line.type == "event" and line.device == device:
                return First(line, (client.status().now - before.now) / 1e6)
        ear.listen(_POLL)
    refused = client.status().door.failed_logins - before.door.failed_logins
    raise _none(client, device, seconds, refused, ear.said)


def _none(client: Client, device: str, seconds: float, refused: int, said: list[str]) -> FlashError:
    found = client.device(device)
    what = f"no event of {device} has come in {seconds:.0f} s"
    heard = "\nThe board says:\n" + "\n".join(f"  {line}" for line in said) if said else ""
    if found.blocked:
        hint = f"The device is blocked: edge device unblock {device}."
    elif found.connected:
        hint = "It is connected: does its program send readings (@device.every)?"
    elif refused:
        hint = "Somebody was refused meanwhile (data/logs/security.jsonl): if it was this board, give it --new-key."
    else:
        hint = (
            f"It has not connected. Is it on the network (--wifi), and is the host right (--host)?"
            f" See what it prints: edge device logs {device}. All is on the board; a reset tries again."
        )
    return FlashError(what + heard, hint=hint)
