"""The firmware's spool in CPython, over a simulated flash, with a model of what has become of every reading."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

from hil.board import firmware_folder
from tests.firmware.simulated_flash import Flash

LOST = "edge.lost"
EPOCH = 1_795_000_000_000_000


@contextmanager
def edge_device(*names: str) -> Iterator[list[Any]]:
    """Modules of the package as they are on a board; what they import of MicroPython's own is CPython's."""
    before = sys.modules.get("micropython")
    micropython = ModuleType("micropython")
    micropython.const = lambda value: value  # type: ignore[attr-defined]
    package = ModuleType("edge_device")
    package.__path__ = [str(firmware_folder() / "edge_device")]
    sys.modules.update({"micropython": micropython, "edge_device": package})
    try:
        yield [importlib.import_module(f"edge_device.{name}") for name in names]
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "edge_device"]:
            del sys.modules[name]
        if before is None:
            del sys.modules["micropython"]
        else:
            sys.modules["micropython"] = before


class Board:
    """One start of a board after another, over the same flash: readings pushed, sent, acknowledged, given up."""

    def __init__(self, modules: list[Any], flash: Flash, *, ring: int = 4, epoch: int | None = EPOCH, **options: Any):
        self._segments, self._spool, self._cbor = modules
        self.flash = flash
        self._segments.os, self._segments.open = flash.os, flash.open
        self._ring = ring
        self._options = {"path": "/spool", "bytes": 1024, "segment": 256, "after": 0, **options}
        self.epoch = epoch
        self.now = 0
        self.starts = 0
        self.order: list[tuple[bytes, int]] = []
        """All readings that were ever taken, by boot and sequence."""
        self.content: dict[tuple[bytes, int], tuple[str, int, Any]] = {}
        """What they are: kind, uptime, data."""
        self.durable: set[tuple[bytes, int]] = set()
        """Those that were on flash, or should have been, when the spool said so."""
        self.acknowledged: set[tuple[bytes, int]] = set()
        self.flying: list[list[tuple[bytes, int]]] = []
        self.lines: list[str] = []
        self.again = 0
        """Acknowledged before the last start: of these, some may still be on flash, be sent again, or be given up."""
        self.start()

    def start(self) -> None:
        """Power on; what was in RAM is gone."""
        self.starts += 1
        self.again = len(self.acknowledged)
        self.now = 1000
        self.seq = 0
        self.flying = []
        self.last: tuple[bytes, int] | None = None
        options = {"queue": self._ring, "queue_bytes": 1024}
        self.core = SimpleNamespace(
            boot=self.starts.to_bytes(8, "big"),
            epoch=lambda: self.epoch,
            hal=SimpleNamespace(uptime=lambda: self.now),
            log=self.lines.append,
            step=lambda now: 60_000,
            config=SimpleNamespace(options=options),
        )
        self._spool.attach(self.core, self._options)
        self.spool = self.core.queue

    def push(self, kind: str = "k", data: Any = None) -> None:
        """Take a reading."""
        out = bytearray()
        self._cbor.encode(data, out)
        name = (self.core.boot, self.seq)
        self.seq += 1
        self.now += 10
        self.order.append(name)
        self.content[name] = (kind, self.now, data)
        self.spool.push((name[1], kind, self.now, bytes(out)))
        if not self._options["after"]:
            self.note()

    def store(self) -> None:
        """Have everything on flash."""
        if self.spool.store():
            self.note()

    def note(self) -> None:
        """All that was taken since the start is on flash now."""
        self.durable |= {name for name in self.order if name[0] == self.core.boot}

    def report(self) -> None:
        """Say what was lost, as the core does."""
        if self.spool.lost and self.spool.has_room(16):
            count = self.spool.lost
            self.spool.lost = 0
            self.push(LOST, {"count": count})
            self.note()

    def send(self, most: int = 3) -> list[tuple[bytes, int]]:
        """Take a packet; checks that it is what was pushed, and in order."""
        batch = self.spool.take(most, 200)
        boot = self.spool.origin[0] if batch and self.spool.origin else self.core.boot
        names = [(boot, reading[0]) for reading in batch]
        for name, (_, kind, uptime, data) in zip(names, batch, strict=True):
            assert name in self.content, "a reading that nobody took"
            assert (kind, uptime, self._cbor.decode(data)) == self.content[name]
            if self.last is not None:
                assert self.order.index(name) > self.order.index(self.last), "out of order"
            self.last = name
        for one, after in pairwise(names):
            assert after[1] == one[1] + 1
        if names:
            self.flying.append(names)
        return names

    def receive(self, place: int) -> None:
        """One of the packets on their way is acknowledged."""
        if self.flying:
            names = self.flying.pop(place % len(self.flying))
            self.acknowledged |= set(names)
            self.spool.acknowledge(names[0][1], len(names), names[0][0])

    def lose_connection(self) -> None:
        """All that is on its way waits again."""
        self.flying = []
        self.last = None
        self.spool.rewind()

    def drain(self) -> None:
        """Send everything and have it acknowledged."""
        self.lose_connection()
        while self.send():
            self.receive(0)
        assert len(self.spool) == 0
        assert self.spool.flying == 0

    def lost(self) -> int:
        """Readings that the board has counted as lost, reports among them as what they report."""
        reports = [name for name in self.acknowledged if self.content[name][0] == LOST]
        return int(self.spool.lost) + sum(int(self.content[name][2]["count"]) for name in reports)

    def delivered(self) -> int:
        """Readings acknowledged, without the reports."""
        return sum(self.content[name][0] != LOST for name in self.acknowledged)

    def taken(self, names: set[tuple[bytes, int]] | None = None) -> int:
        """Readings taken, without the reports."""
        return sum(self.content[name][0] != LOST for name in (self.order if names is None else names))
