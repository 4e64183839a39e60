"""The firmware's own serial machine inside CPython: what the gateway's is tried against."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from hil.board import firmware_folder

DEVICE = "b1"
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE"
TREE = f"/devices/{DEVICE}/"


def load() -> Any:
    """The module `firmware/edge_device/serial.py`."""
    shim = ModuleType("micropython")
    shim.const = lambda value: value  # type: ignore[attr-defined]
    path: Path = firmware_folder() / "edge_device" / "serial.py"
    spec = spec_from_file_location("firmware_serial", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    before = sys.modules.get("micropython")
    sys.modules["micropython"] = shim
    try:
        spec.loader.exec_module(module)
    finally:
        if before is None:
            del sys.modules["micropython"]
        else:
            sys.modules["micropython"] = before
    return module


firmware = load()


class Board:
    """A board's session with what it has acknowledged and received; begins again by itself, as the core has it."""

    def __init__(self, random: Any, ring: int = 63, keepalive: int = 30, key: str = KEY) -> None:
        self.session = firmware.Session(DEVICE, key.encode(), keepalive, 10, 4096, ring, random)
        self.waiting: list[bytes] = []
        """Messages, oldest first: the first stays until it is acknowledged."""
        self.acknowledged: list[bytes] = []
        self.messages: list[tuple[str, bytes]] = []
        self.failures: list[str] = []
        self._retry_at = 0

    def receive(self, data: bytes, now: int) -> None:
        self.session.receive(data, now, self._message, self._acknowledged)

    def step(self, now: int) -> None:
        """As `Core.step` does: begin, keep alive, send what waits."""
        session = self.session
        session.tick(now)
        if session.failure:
            self.failures.append(session.failure)
            session.failure = ""
            self._retry_at = now + 300
        if session.state == firmware.CLOSED:
            if now >= self._retry_at:
                session.begin(now)
        elif self.waiting and session.has_room():
            session.publish(now, TREE + "events/climate", self.waiting[0], False, self.waiting[0])

    def take(self) -> bytes:
        out = bytes(self.session.out)
        self.session.out[:] = b""
        return out

    def _message(self, topic: str, payload: bytes, packet: int) -> None:
        assert packet == 0
        self.messages.append((topic, payload))

    def _acknowledged(self, token: bytes) -> None:
        assert token == self.waiting.pop(0)
        self.acknowledged.append(token)
