"""Runs a scenario: a board, the link between it and a gateway, and what the gateway knows in the end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from hil.board import Board, Buttons, Pins
from hil.faults import Faults
from hil.faulty_line import FaultyLine
from hil.faulty_network import FaultyTcp
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


class Failed(AssertionError):
    """A step did not come about; says which, and what was seen instead."""


@dataclass
class Bench:
    """A board on its link at a gateway."""

    board: Board
    link: Faults | None
    gateway: Gateway
    has: frozenset[str]
    """The capabilities, as in `scenario.CAPABILITIES`."""
    _mark: int = 0
    _command: str = ""
    _seen: list[Record] = field(default_factory=list)

    async def run(self, scenario: Scenario) -> None:
        """Do what it says. Raises Failed."""
        for step in scenario.steps:
            try:
                await self._step(step)
            except (Failed, TimeoutError) as error:
                raise Failed(
                    f"{scenario.path}:{step.line}: {step.text}\n{error}\nseen: {self._summary()}\n"
                    f"the board's log: {self.board.logs()[-2000:]}"
                ) from None

    async def _step(self, step: Step) -> None:
        if not step.verb.startswith(("expect", "wait")):
            self._mark = len(await self._events())
        match step.verb:
            case "power on":
                await self.board.start()
            case "power off":
                await self.board.stop()
            case "cut power":
                await self.board.kill()
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
            case "expect reply":
                await self._replied(step)
            case "expect pin":
                await self._until(step, lambda: self._pin(step.name == "on"))
            case "expect connected":
                wanted = step.name == "connected"
                await self._until(step, lambda: self._is_connected(wanted))
            case "expect log":
                await self._until(step, lambda: step.name in self.board.logs())
            case "expect once":
                await self._once()

    async def _events(self) -> list[Record]:
        self._seen = await self.gateway.records()
        return [record for record in self._seen if record.kind == "event"]

    async def _came(self, step: Step) -> bool:
        new = (await self._events())[self._mark :]
        return any(event.name == step.name and step.data in (None, event.data) for event in new)

    async def _many(self, number: int) -> bool:
        return len(await self._events()) >= self._mark + number

    async def _pin(self, on: bool) -> bool:
        return await cast(Pins, self.board).pin() == on

    async def _is_connected(self, wanted: bool) -> bool:
        return await self.gateway.connected() == wanted

    async def _replied(self, step: Step) -> None:
        if not self._command:
            raise Failed("there is no command that could be replied to")

        async def has_ended() -> bool:
            return await self.gateway.reply(self._command) is not None

        await self._until(step, has_ended)
        reply = await self.gateway.reply(self._command)
        assert reply is not None
        if reply.status != _STATUS[step.name] or step.data not in (None, reply.result):
            raise Failed(f"the reply is {reply}")

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

    async def _until(self, step: Step, condition: Callable[[], bool | Awaitable[bool]]) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + step.within
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            if loop.time() > end:
                raise Failed(f"it did not come about in {step.within:g} s")
            await asyncio.sleep(_POLL)

    def _summary(self) -> str:
        kinds: dict[str, int] = {}
        for record in self._seen:
            kinds[f"{record.kind} {record.name}"] = kinds.get(f"{record.kind} {record.name}", 0) + 1
        return ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "nothing"
