"""The controls of `[controls]` at a foreign broker: what its users may have our devices do, and nothing beside.

Each control of a device has a topic, `edge/{gateway}/{device}/controls/{control}`, and takes the texts that edge.toml
gives it. It becomes a command as from any program; of those for one control that still wait only the newest is kept.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from functools import partial

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import StorageError
from edge_runtime.events import Origin
from edge_runtime.ingress.admission import Settle, Verdict
from edge_runtime.ingress.allowances import fits
from edge_runtime.ingress.broker.devices import COMMAND_LIFE, Known
from edge_runtime.ingress.broker.message import SECOND
from edge_runtime.ingress.homeassistant import Control
from edge_runtime.journal.interface import Appended, Journal
from edge_runtime.journal.records import Command


class Controls:
    """Makes commands of what is published to the controls' topics."""

    def __init__(
        self, gateway: str, controls: Sequence[Control], devices: Known, journal: Journal, clock: Clock
    ) -> None:
        self._root = f"edge/{gateway}/"
        self._controls = {control.name: control for control in controls}
        self._devices = devices
        self._journal = journal
        self._clock = clock
        self.filter = f"{self._root}+/controls/+"
        """The topics of all of them."""
        self.fence = f"{self._root}fence"
        """Where the gateway itself publishes, to know what came before."""

    def topic(self, device: str, control: Control) -> str:
        """Where a control of a device is pressed."""
        return f"{self._root}{device}/controls/{control.name}"

    def has(self, topic: str) -> bool:
        """Whether a topic is one of theirs."""
        return topic.startswith(self._root)

    def take(self, topic: str, payload: bytes, settle: Settle) -> str:
        """Append the command, and settle once it is durable; else says why it is none, and `settle` is not called."""
        device, _, name = topic.removeprefix(self._root).partition("/controls/")
        control = self._controls.get(name)
        if control is None or device not in self._devices or not fits(device, control.devices):
            return "there is no such control"
        if payload != control.on.encode() and (not control.off or payload != control.off.encode()):
            return "the control does not take this"
        now = self._clock.now()
        command = Command(
            device,
            control.command,
            msgspec.json.decode(payload) if payload else None,
            now,
            now + COMMAND_LIFE * SECOND,
            Origin("mqtt:attach", 0, secrets.token_hex(16), 0),
            key=f"control:{name}",
        )
        appending = asyncio.ensure_future(self._journal.append([command]))
        appending.add_done_callback(partial(_appended, settle))
        return ""


def _appended(settle: Settle, appending: asyncio.Future[Appended]) -> None:
    try:
        appending.result()
    except (StorageError, asyncio.CancelledError):
        settle(Verdict.REFUSED)
    else:
        settle(Verdict.ACCEPTED)
