"""The firmware's updater and its boot loader in CPython, over a simulated flash, with a gateway of the real forms."""

from __future__ import annotations

import importlib
import sys
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from types import ModuleType, SimpleNamespace
from typing import Any

from devices.releases import manifest_of
from edge_runtime import wire_ota
from hil.board import firmware_folder
from tests.firmware.simulated_flash import Flash

DEVICE = "gh-1"
RAW_KEY = bytes(range(32))
KEY = urlsafe_b64encode(RAW_KEY).rstrip(b"=").decode()
TURNS = 20_000
"""Of a board's loop: many times what an update needs."""


@contextmanager
def firmware() -> Iterator[tuple[Any, Any]]:
    """The modules `edge_boot` and `edge_device.ota`, as they are on a board."""
    before = {name: sys.modules.get(name) for name in ("micropython", "edge_boot")}
    micropython = ModuleType("micropython")
    micropython.const = lambda value: value  # type: ignore[attr-defined]
    package = ModuleType("edge_device")
    package.__path__ = [str(firmware_folder() / "edge_device")]
    sys.modules.update({"micropython": micropython, "edge_device": package})
    sys.path.insert(0, str(firmware_folder() / "loader"))
    try:
        boot = importlib.import_module("edge_boot")
        yield boot, importlib.import_module("edge_device.ota")
    finally:
        sys.path.remove(str(firmware_folder() / "loader"))
        for name in [name for name in sys.modules if name.partition(".")[0] == "edge_device"]:
            del sys.modules[name]
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


class Version:
    """A release and its files."""

    def __init__(self, version: str, files: Mapping[str, bytes], **options: Any) -> None:
        self.files = dict(files)
        self.raw = manifest_of("greenhouse", version, files, **options).encode()
        self.id = sha256(self.raw).digest()
        self.content = {sha256(data).digest(): data for data in files.values()} | {self.id: self.raw}


class Gateway:
    """Offers one release, and answers."""

    def __init__(self, offered: Version, *, number: int = 7, key: bytes = RAW_KEY) -> None:
        self.offered = offered
        self.number = number
        self.reports: list[wire_ota.Report] = []
        self.asked: list[tuple[bytes, int]] = []
        self.damage = 0
        """So many pieces come damaged."""
        self.silent = False
        """It takes reports, and is not heard by a version that is new."""
        self.proof: Any = wire_ota.prove(sha256(key).digest(), number & 0xFFFFFFFF, offered.id, DEVICE)

    @property
    def offer(self) -> bytes:
        return wire_ota.encode_offer(self.offered.id, len(self.offered.raw), self.number, [self.proof])

    def over(self) -> bool:
        """Whether the board is through with it, whatever came of it."""
        last = self.reports[-1] if self.reports else None
        runs = last is not None and last.state == wire_ota.IDLE and last.running == self.offered.id
        return runs or (
            last is not None and last.state in (wire_ota.FAILED, wire_ota.ROLLED_BACK) and last.number == self.number
        )

    def answer(self, topic: str, payload: bytes) -> tuple[str, bytes] | None:
        """What it says to what a board says."""
        if topic == "/ota/report":
            self.reports.append(wire_ota.decode_report(payload))
            return None if self.over() or self.reports[-1].state == wire_ota.TRIAL else ("ota/offer", self.offer)
        ask = wire_ota.decode_ask(payload)
        self.asked.append((ask.digest, ask.offset))
        data = self.offered.content[ask.digest][ask.offset : ask.offset + ask.length]
        if self.damage:
            self.damage -= 1
            data = bytes(b ^ 1 for b in data)
        return "ota/data", wire_ota.encode_data(ask.digest, ask.offset, data)


class Readings(list[str]):
    """A queue, as far as updates see it."""

    flying = 0


class Board:
    """Starts and runs until it is reset, or through."""

    def __init__(self, modules: tuple[Any, Any], flash: Flash, *, packet: int = 64) -> None:
        self.boot, self.ota = modules
        self.flash = flash
        self.packet = packet
        self.starts: list[int] = []
        self.failed: list[str] = []
        self.key = KEY
        self.queue: Any = Readings()
        self.prepare: Callable[[Any], None] = lambda ota: None
        """What the program does with its `device.updates()`."""
        for module in modules:
            module.open, module.os = flash.open, flash.os

    def start(self) -> int:
        """What the boot loader does; returns the slot."""
        slot: int = self.boot.choose()
        self.starts.append(slot)
        return slot

    def files(self, slot: int) -> dict[str, bytes]:
        """The program in a slot."""
        root = f"{self.boot.SLOTS[slot]}/"
        return {
            name[len(root) :]: raw
            for name, raw in self.flash.files.items()
            if name.startswith(root) and not name[len(root) :].startswith(".")
        }

    def run(self, gateway: Gateway, *, turns: int = TURNS) -> bool:
        """Be connected until it resets itself (True), or the gateway has heard that it is through (False)."""
        now = 0

        def every(period: int, function: Any) -> SimpleNamespace:
            return SimpleNamespace(period=period, function=function)

        def uptime() -> int:
            return now

        core = SimpleNamespace(
            ota=None,
            session=SimpleNamespace(acknowledge=lambda packet: None),
            config=SimpleNamespace(device=DEVICE, key=self.key, links=None, options={"packet": self.packet}),
            hal=SimpleNamespace(uptime=uptime),
            queue=self.queue,
            every=every,
            log=lambda text: None,
            report=lambda where, error: self.failed.append(f"{where}: {error}"),
            _since=1,
        )
        try:
            ota = self.ota.Ota(core)
            self.prepare(ota)
            for _ in range(turns):
                now += ota._timer.period
                ota.tick()
                told = ota.take()
                if told is None:
                    if gateway.over() and self.boot.state()[self.boot.MODE] == self.boot.CONFIRMED:
                        return False
                    continue
                if gateway.silent and self.boot.state()[self.boot.MODE] == self.boot.TRIAL:
                    continue
                answer = gateway.answer(told[0], bytes(told[1]))
                told[2] = 2  # acknowledged
                if answer is not None:
                    ota.message(answer[0], answer[1], 0)
        except SystemExit:
            return True
        raise AssertionError(f"nothing came of it in {turns} turns; reports: {gateway.reports[-3:]}")


def fresh(version: Version, *, cached: bool = False, blocks: int = 1000) -> Flash:
    """A board as it is flashed: a version in slot a."""
    flash = Flash(cached=cached, blocks=blocks)
    flash.folders |= {"/a", "/a/lib"}
    flash.files = {f"/a/{path}": raw for path, raw in version.files.items()}
    return flash
