"""A serial door with what belongs to it, and a board's machine of the firmware at the other end of a real terminal."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import serial as pyserial

from devices.registry import Registry
from edge_runtime.clock import SystemClock
from edge_runtime.events import Event, Origin
from edge_runtime.ingress.admission import Admission
from edge_runtime.ingress.serial import SerialFrontDoor, SerialLimits
from edge_runtime.ingress.serial_find import SerialRule
from edge_runtime.journal.records import Command, CommandEnd, DeadLetter
from hil.faulty_line import FaultyLine
from tests.ingress.mqtt_house import SlowJournal


class SerialHouse:
    """A door over a journal in memory; its ports are the lines in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = SlowJournal()
        self.clock = SystemClock()
        self.security: list[str] = []
        self.log: list[str] = []
        self.listening: list[str] = []
        self.lines: list[FaultyLine] = []
        self.registry: Registry
        self.door: SerialFrontDoor

    @classmethod
    async def build(cls, folder: Path, *rules: SerialRule, **more: Any) -> SerialHouse:
        house = cls(folder)
        house.registry = await Registry.open(house.journal, house.clock)
        admission = await Admission.open(house.journal, house.registry, house.clock, house.security.append)
        house.door = SerialFrontDoor(
            admission,
            house.registry,
            house.clock,
            rules or (SerialRule("boards", str(folder / "tty*")),),
            security=house.security.append,
            log=house.log.append,
            random=random.Random(5).randbytes,
            limits=SerialLimits(max_message=8192),
            **more,
        )
        house.door.on_listening = house.listening.append
        await house.door.start()
        return house

    def line(self, seed: int = 1) -> FaultyLine:
        """One more line, plugged in."""
        line = FaultyLine(self.folder / f"tty{len(self.lines)}", seed=seed)
        line.plug()
        self.lines.append(line)
        return line

    @property
    def events(self) -> list[Event]:
        return self.journal.events

    @property
    def ends(self) -> list[CommandEnd]:
        return [record for record in self.journal.inner.records() if isinstance(record, CommandEnd)]

    @property
    def letters(self) -> list[DeadLetter]:
        return [record for record in self.journal.inner.records() if isinstance(record, DeadLetter)]

    def order(self, device: str, index: int = 0, name: str = "fan") -> Command:
        now = self.clock.now()
        return Command(device, name, {"on": True}, now, now + 60_000_000, Origin("app.f", 0, device, index))

    async def tear_down(self) -> None:
        self.journal.slow = False
        await self.journal.let_through(len(self.journal.under_way))
        await self.door.stop()
        for line in self.lines:
            line.close()


def open_board_end(line: FaultyLine) -> pyserial.Serial:
    """The board's end, opened with pyserial, as a program on another machine would."""
    return pyserial.Serial(os.ttyname(line.board), 115_200, timeout=0)
