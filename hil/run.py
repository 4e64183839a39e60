"""Runs a scenario: a board, the link between it and a gateway, and what the gateway knows in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from edge_runtime.errors import EdgeError
from hil.board import Board, Buttons, Pins, Reset
from hil.faults import Faults
from hil.faulty_line import FaultyLine
from hil.faulty_network import FaultyTcp, FaultyUdp
from hil.scenario import Scenario, Step

_POLL = 0.05
_STATUS = {"ok": 0, "failed": 1, "unknown": 2, "expired": 3}


@dataclass(frozen=True)
class Record:
    """What the gateway has in its journal of one device."""

    kind: str
    """`event`, `dead-letter`, or anything else."""
    id: str
    """Of an event `device/boot/seq`."""
    name: str
    data: Any


@dataclass(frozen=True)
class Reply:
    """The end of a command."""

    status: int
    result: Any


class Gateway(Protocol):
    """What a scenario asks a gateway about one device."""

    async def records(self) -> list[Record]:
        """All that has come of it since the scenario began."""
        ...

    async def connected(self) -> bool:
        """Whether it is."""
        ...

    async def order(self, name: str, args: Any) -> str:
        """Give it a command; the command's id."""
        ...

    async def reply(self, command: str) -> Reply | None:
        """How a command ended, if it has."""
        ...

    def log(self) -> str:
        """What it has said about the device: on a serial line, also what the board prints."""
        ...


class Failed(AssertionError):
    """A step did not come about; says which, and what was seen instead."""


def told(error: BaseException) -> str:
    """An error in a line, with what to do about it."""
    hint = getattr(error, "hint", "")
    return f"{error}{hint and f' ({hint})'}" or "there was no answer in time"


@dataclass
class Bench:
    """A board on its link at a gateway."""

    board: Board
    link: Faults | None
    gateway: Gateway
    _on: bool = False
    """Whether the board is to have power."""
    _mark: int = 0
    _command: str = ""
    _seen: list[Record] = field(default_factory=list)

    async def run(self, scenario: Scenario) -> None:
        """Do what it says. Raises Failed."""
        for step in scenario.steps:
            try:
                await self._step(step)
            except (Failed, TimeoutError, EdgeError) as error:
                raise Failed(
                    f"{scenario.path}:{step.line}: {step.text}\n{told(error)}\n"
                    f"seen: {self._summary()}\nthe board's log: {self._logs()[-2000:]}\n"
                    f"the gateway's: {self.gateway.log()[-2000:]}"
                ) from None

    async def _step(self, step: Step) -> None:
        if not step.verb.startswith(("expect", "wait")):
            self._mark = len(await self._events())
        match step.verb:
            case "power on":
                await self.board.start()
                self._on = True
            case "power off":
                self._on = False
                await self.board.stop()
            case "cut power":
                self._on = False
                await self.board.kill()
            case "reset":
                await cast(Reset, self.board).reset()
            case "press":
                await cast(Buttons, self.board).press(step.name)
            case "command":
                self._command = await self.gateway.order(step.name, step.data)
            case "wait":
                await asyncio.sleep(step.number)
            case "link share" | "link time" | "link rate" | "link state":
                self._change_link(step)
            case _:
                await self._expect(step)

    def _change_link(self, step: Step) -> None:
        link = self.link
        assert link is not None
        match step.verb, step.name:
            case "link share", name:
                setattr(link, name, step.number / 100)
            case "link time", name:
                setattr(link, name, step.number / 1000)
            case "link rate", _:
                link.rate = step.number
            case _, "good":
                link.heal()
            case _, "cut":
                link.cut = True
            case _, "deaf":
                link.deaf_board = True
            case _, "half-open":
                cast(FaultyTcp | FaultyUdp, link).half_open()
            case _, "break":
                cast(FaultyTcp, link).break_connections()
            case _, "unplug":
                cast(FaultyLine, link).unplug()
            case _, "plug":
                cast(FaultyLine, link).plug()

    async def _expect(self, step: Step) -> None:
        match step.verb:
            case "expect event":
                await self._until(step, lambda: self._came(step))
            case "expect events":
                await self._until(step, lambda: self._many(step.number))
            case "expect restart":
                await self._until(step, self._restarted)
            case "expect reply":
                await self._until(step, self._replied)
                reply = await self.gateway.reply(self._command)
                assert reply is not None
                if reply.status != _STATUS[step.name] or step.data not in (None, reply.result):
                    raise Failed(f"the reply is {reply}")
            case "expect pin":
                await self._until(step, lambda: self._pin(step.name))
            case "expect connected":
                await self._until(step, lambda: self._connection(step.name))
            case "expect log":
                await self._until(step, lambda: self._logged(step.name))
            case "expect once":
                await self._once()

    async def _events(self) -> list[Record]:
        self._seen = await self.gateway.records()
        return [record for record in self._seen if record.kind == "event"]

    # What is expected is looked for by these: each says what is there instead, or nothing.

    async def _came(self, step: Step) -> str:
        since = [event.data for event in (await self._events())[self._mark :] if event.name == step.name]
        if since and step.data in (None, *since):
            return ""
        return f"the newest of this kind since then: {since[-3:]}" if since else "none of this kind since then"

    async def _many(self, number: int) -> str:
        came = len(await self._events()) - self._mark
        return "" if came >= number else f"{came} came"

    async def _restarted(self) -> str:
        starts = [event.id.rpartition("/")[0] for event in await self._events()]
        return "" if set(starts[self._mark :]) - set(starts[: self._mark]) else "no event of a new start came"

    async def _replied(self) -> str:
        if not self._command:
            raise Failed("there is no command that could be replied to")
        return "no reply came" if await self.gateway.reply(self._command) is None else ""

    async def _pin(self, wanted: str) -> str:
        pin = "on" if await cast(Pins, self.board).pin() else "off"
        return "" if pin == wanted else f"it is {pin}"

    async def _connection(self, wanted: str) -> str:
        state = "connected" if await self.gateway.connected() else "disconnected"
        return "" if state == wanted else f"the gateway takes it for {state}"

    async def _logged(self, text: str) -> str:
        return "" if text in self._logs() else "it is not there"

    async def _once(self) -> None:
        """Each reading is there once, none is missing that the board could send, none is unreadable."""
        events = await self._events()
        identities = [event.id for event in events]
        if len(set(identities)) != len(identities):
            raise Failed("a reading is there twice")
        boots: dict[str, list[int]] = {}
        for event in events:
            boot, _, seq = event.id.rpartition("/")
            boots.setdefault(boot, []).append(int(seq))
        for boot, seqs in boots.items():
            if sorted(seqs) != list(range(len(seqs))):
                raise Failed(f"of {boot} these are missing: {sorted(set(range(max(seqs))) - set(seqs))}")
        letters = [record for record in self._seen if record.kind == "dead-letter"]
        if letters:
            raise Failed(f"the gateway could not read {letters}")
        lost = self.board.journal().acknowledged - set(identities)
        if lost:
            raise Failed(f"the board was told that these are stored, and they are not: {sorted(lost)[:5]}")

    async def _until(self, step: Step, look: Callable[[], Awaitable[str]]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + step.within
        while instead := await look():
            if self._on and not self.board.running:
                raise Failed("the board runs no more: its program has ended, or its port is gone")
            if loop.time() > end:
                raise Failed(f"it did not come about in {step.within:g} s: {instead}")
            await asyncio.sleep(_POLL)

    def _logs(self) -> str:
        """What the board has said, on its line too."""
        return self.board.logs() + (self.link.text() if isinstance(self.link, FaultyLine) else "")

    def _summary(self) -> str:
        kinds: dict[str, int] = {}
        for record in self._seen:
            kinds[f"{record.kind} {record.name}"] = kinds.get(f"{record.kind} {record.name}", 0) + 1
        return ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "nothing"
