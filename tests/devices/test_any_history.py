"""Whatever is done to devices, and however often the gateway starts again: a simple model says who is let in."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from devices.exchange import exported, take_in
from devices.keys import MAX_KEYS
from devices.registry import Registry
from edge_runtime.clock import ManualClock
from edge_runtime.errors import EdgeError
from edge_runtime.journal.memory import MemoryJournal

DEVICES = ("a", "b")
VERBS = ("add", "remove", "rotate", "key", "unkey", "block", "unblock", "restart", "move", "full")
STEPS = st.lists(st.tuples(st.sampled_from(VERBS), st.sampled_from(DEVICES), st.integers(0, 3)), max_size=30)


class Model:
    """Devices as tokens by key id, and whether they are blocked."""

    def __init__(self) -> None:
        self.keys: dict[str, dict[str, str]] = {}
        self.blocked: set[str] = set()
        self.ever: set[str] = set()

    def allows(self, device: str, token: str) -> bool:
        return device not in self.blocked and token in self.keys.get(device, {}).values()


async def history(steps: list[tuple[str, str, int]]) -> None:
    journal, clock, model = MemoryJournal(), ManualClock(), Model()
    registry = await Registry.open(journal, clock)
    for verb, device, number in steps:
        clock.advance(1)
        held = model.keys.get(device)
        before = journal.records()
        journal.full = verb == "full"
        try:
            match verb:
                case "add":
                    token = await registry.add(device)
                    model.keys[device] = {"1": token}
                    model.ever.add(token)
                case "remove":
                    await registry.remove(device)
                    del model.keys[device]
                    model.blocked.discard(device)
                case "rotate":
                    _, token = await registry.rotate(device)
                    assert held is not None
                    (old,) = held
                    model.keys[device] = {str(int(old) + 1): token}
                    model.ever.add(token)
                case "key":
                    key, token = await registry.add_token(device)
                    assert held is not None
                    assert key.id not in held
                    held[key.id] = token
                    model.ever.add(token)
                case "unkey":
                    await registry.remove_key(device, str(number))
                    assert held is not None
                    del held[str(number)]
                case "block" | "unblock":
                    await (registry.block(device) if verb == "block" else registry.unblock(device))
                    (model.blocked.add if verb == "block" else model.blocked.discard)(device)
                case "restart":
                    journal = MemoryJournal(journal.records())
                    registry = await Registry.open(journal, clock)
                case "move":
                    lines = list(exported(registry))
                    journal = MemoryJournal()
                    registry = await Registry.open(journal, clock)
                    await take_in(registry, lines)
                case "full":
                    await registry.add_token(device)
        except EdgeError:
            assert journal.records() == before, "what was refused has changed nothing"
            impossible = {
                "add": held is not None,
                "rotate": held is None or len(held) != 1,
                "key": held is None or len(held) >= MAX_KEYS,
                "unkey": held is None or str(number) not in held,
                "full": True,
            }
            assert impossible.get(verb, held is None)
        assert len(registry) == len(model.keys)
        for name in DEVICES:
            for token in model.ever:
                assert registry.verify(name, token) == model.allows(name, token)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_who_is_let_in_after_any_history(steps: list[tuple[str, str, int]]) -> None:
    asyncio.run(history(steps))
