"""Scenarios: readable transcripts of what is done to a board and what must come of it. `docs/hil.md` has the words.

A file is a title (`# ...`), a head of `name: value` lines, and steps, one a line. Empty lines and further `#` lines are
for people.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.errors import EdgeError

CAPABILITIES = ("power", "reset", "buttons", "pins", "link", "network", "presence", "stream", "unplug", "journal")
"""What a board on its link may be able to do: see `docs/hil.md`."""
WITHIN = 30.0
"""Seconds that an expectation waits where it does not say."""

_JSON = r"(?:\s+(?P<data>\{.*\}))?"
_WITHIN = r"(?:\s+within\s+(?P<within>\d+)\s*s)?"
_STEPS = {
    "power on": r"power on",
    "power off": r"power off",
    "cut power": r"cut power",
    "reset": r"reset",
    "press": r"press (?P<name>\w+)",
    "command": rf"command (?P<name>[\w.-]+){_JSON}",
    "wait": r"wait (?P<number>\d+) s",
    "expect event": rf"expect event (?P<name>[\w.-]+){_JSON}{_WITHIN}",
    "expect events": rf"expect (?P<number>\d+) events{_WITHIN}",
    "expect reply": rf"expect reply (?P<name>ok|failed|unknown|expired){_JSON}{_WITHIN}",
    "expect restart": rf"expect restart{_WITHIN}",
    "expect pin": rf"expect pin (?P<name>on|off){_WITHIN}",
    "expect connected": rf"expect (?P<name>connected|disconnected){_WITHIN}",
    "expect once": r"expect each reading once",
    "expect log": rf"expect log \"(?P<name>.+)\"{_WITHIN}",
    "link share": r"link (?P<name>loss|damage|duplicates) (?P<number>\d+)%",
    "link time": r"link (?P<name>delay|jitter) (?P<number>\d+) ms",
    "link rate": r"link slow (?P<number>\d+) bytes/s",
    "link state": r"link (?P<name>cut|deaf|half-open|good|break|unplug|plug)",
}
_NEEDS = {
    "power off": "power",
    "cut power": "power",
    "reset": "reset",
    "press": "buttons",
    "expect pin": "pins",
    "link share": "link",
    "link time": "link",
    "link rate": "link",
    "link state": "link",
    "disconnected": "presence",
    "half-open": "network",
    "break": "stream",
    "unplug": "unplug",
    "plug": "unplug",
}


class ScenarioError(EdgeError):
    """A scenario's file says something that nobody understands."""


@dataclass(frozen=True)
class Step:
    """One line."""

    line: int
    text: str
    verb: str
    name: str = ""
    number: int = 0
    data: Any = None
    within: float = WITHIN


@dataclass(frozen=True)
class Scenario:
    """One file."""

    path: Path
    title: str
    needs: frozenset[str]
    period_ms: int
    steps: tuple[Step, ...] = field(repr=False)

    def missing(self, has: frozenset[str]) -> list[str]:
        """What it needs and a board has not."""
        return sorted(self.needs - has)


def read(path: Path) -> Scenario:
    """Read a file. Raises ScenarioError, which names the line."""
    try:
        text = path.read_text()
    except (OSError, UnicodeError) as error:
        raise ScenarioError(f"{path} cannot be read: {error}") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Scenario:
    """Read a text; `path` is what errors call it."""
    title, period = "", 200
    needs: set[str] = set()
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), 1):
        line, place = line.strip(), f"{path}:{number}"
        if line.startswith("#"):
            title = title or line.lstrip("# ")
        elif line.startswith("needs:"):
            for name in line.removeprefix("needs:").split():
                if name not in CAPABILITIES:
                    raise ScenarioError(f"{place}: there is no capability '{name}'", hint=f"{', '.join(CAPABILITIES)}.")
                needs.add(name)
        elif found := re.fullmatch(r"every: (\d+) ms", line):
            period = int(found[1])
            if not period:
                raise ScenarioError(f"{place}: a board counts every 1 ms at the most often")
        elif line:
            step = _step(line, number, place)
            words = (step.verb, step.name) if step.verb in ("link state", "expect connected") else (step.verb,)
            needs |= {_NEEDS[word] for word in words if word in _NEEDS}
            steps.append(step)
    if not title:
        raise ScenarioError(f"{path}:1: a scenario begins with a line '# what it shows'")
    if not steps:
        raise ScenarioError(f"{path}: no steps")
    return Scenario(path, title, frozenset(needs), period, tuple(steps))


def _step(line: str, number: int, place: str) -> Step:
    for verb, pattern in _STEPS.items():
        found = re.fullmatch(pattern, line)
        if found is None:
            continue
        parts = {key: value for key, value in found.groupdict().items() if value is not None}
        try:
            data = json.loads(parts["data"]) if "data" in parts else None
        except ValueError as error:
            raise ScenarioError(f"{place}: {parts['data']} is no JSON: {error}") from None
        if verb == "link share" and int(parts["number"]) > 100:
            raise ScenarioError(f"{place}: {parts['number']}% is more than all")
        within = float(parts.get("within", WITHIN))
        return Step(number, line, verb, parts.get("name", ""), int(parts.get("number", 0)), data, within)
    first = line.split()[0]
    like = [verb for verb in _STEPS if verb.split()[0] == first]
    hint = f"After '{first}': {', '.join(like)}." if like else f"Steps: {', '.join(_STEPS)}."
    raise ScenarioError(f"{place}: '{line}' is no step of a scenario", hint=f"{hint} See docs/hil.md.")
