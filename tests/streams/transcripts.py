"""Transcripts: what a machine is told, and what it answers, line by line. Any machine of `edge_runtime.streams`.

    A late event makes a pane of its own.           the title: what is shown

    type = "window"                                 the specification, TOML in the words of streamspec;
    shape = { type = "fixed", size = 10 }           lengths of time are in seconds, and aggregates may be written
    compute = { sum = "sum(v)" }                    like calls
    ---
    0  a 3  v=1                                     at processing time 0: device a, event time 3, data {"v": 1}
    1  a 12 v=1
       pane a 0..10 on_time 0 sum=1                 key, window, timing, number, values; `~` stands for the empty key
       watermark 12
    2  a 2  v=5
       late 2.000001                                by how much; nothing or 0 for one that is set aside
    9  tick                                         nothing happens but time
       back a 0..10 early 0 sum=1                   a retraction
       note a ahead                                 device and what about

The results of a line are those below it: all of them, in order. `kind=` among the fields is the event's kind. With
`fails = "..."` in the specification, the transcript is wrong and must be found to be, with these words.

Each is run one event at a time, all at once, and with everything dumped, let go of and loaded after each event.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.events import TICK, Event
from edge_runtime.streams.machine import Excess, Late, Machine, Note, Result
from edge_runtime.streamspec import SECOND, Absent, Join, Latest, Sequence, Source, Window

FOLDER = Path(__file__).parent / "transcripts"
LENGTHS = {
    *("size", "every", "offset", "gap", "lateness", "idle", "delay", "ahead", "behind"),
    *("early_every", "late_every", "within", "length", "keep"),
}
Computation = Window | Join | Latest | Absent | Sequence
Make = Callable[[Computation, list[Source]], Machine]
_CALL = re.compile(r"([a-z_]+)\((.*)\)")


class Step(msgspec.Struct):
    """A line, and the results below it."""

    line: int
    event: Event
    now: int
    expected: list[str] = []
    watermark: int | None = None


class Transcript(msgspec.Struct):
    title: str
    computation: Computation
    sources: list[Source]
    steps: list[Step]
    fails: str = ""


def read(path: Path) -> Transcript:
    title, _, rest = path.read_text().partition("\n")
    head, _, body = rest.partition("\n---\n")
    spec = tomllib.loads(head)
    fails = spec.pop("fails", "")
    sources = [Source(*source.split(" where ", 1)) for source in spec.pop("sources", ["e"])]
    steps: list[Step] = []
    for number, line in enumerate(body.splitlines(), start=head.count("\n") + 4):
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0][0].isdigit():
            steps.append(_step(number, words, len(steps)))
        elif words[0] == "watermark":
            steps[-1].watermark = _micros(words[1])
        else:
            steps[-1].expected.append(" ".join(words))
    return Transcript(title, msgspec.convert(_spelled(spec), Computation), sources, steps, fails)


def _step(line: int, words: list[str], number: int) -> Step:
    now = _micros(words[0])
    if words[1] == "tick":
        return Step(line, Event("gateway", b"", number, TICK + "t", now, now, {"due": now}), now)
    data = dict(_field(word) for word in words[3:])
    kind = data.pop("kind", "e")
    return Step(line, Event(words[1], b"12345678", number, kind, _micros(words[2]), now, data), now)


def _field(word: str) -> tuple[str, Any]:
    name, _, text = word.partition("=")
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def _spelled(spec: Any) -> Any:
    """Seconds to microseconds, calls to aggregates."""
    if not isinstance(spec, dict):
        return spec
    spelled: dict[str, Any] = {
        name: round(value * SECOND) if name in LENGTHS and isinstance(value, int | float) else _spelled(value)
        for name, value in spec.items()
    }
    for name, text in spelled.get("compute", {}).items():
        if isinstance(text, str):
            match = _CALL.fullmatch(text)
            assert match is not None, text
            spelled["compute"][name] = {"op": match[1], "field": match[2]}
    return spelled


def _micros(text: str) -> int:
    return round(float(text) * SECOND)


def seconds(micros: int) -> str:
    return f"{micros / SECOND:.6f}".rstrip("0").rstrip(".")


def spoken(result: Result) -> str:
    """A result as a transcript has it."""
    if isinstance(result, Late):
        return f"late {seconds(result.by)}" if result.by else "late"
    if isinstance(result, Note):
        return f"note {result.device} {result.about}"
    if isinstance(result, Excess):
        return f"excess {result.lost}"
    values = " ".join(f"{name}={_shown(value)}" for name, value in result.values.items())
    span = f"{seconds(result.start)}..{seconds(result.end)}"
    word = "back" if result.retraction else "pane"
    return f"{word} {result.key or '~'} {span} {result.timing} {result.number} {values}".rstrip()


def _shown(value: Any) -> str:
    return json.dumps(round(value, 6) if isinstance(value, float) else value, separators=(",", ":"))


class Store:
    """Keeps what a machine dumps, and gives it what it needs."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def save(self, machine: Machine) -> None:
        for name, value in machine.dump().items():
            if value is None:
                self.kept.pop(name, None)
            else:
                self.kept[name] = value

    def take(self, machine: Machine, events: list[Event], times: list[int]) -> list[Result]:
        """All of them, however often it stops in between; indices count from the first."""
        results: list[Result] = []
        done = 0
        while done < len(events):
            self.provide(machine, events[done:], times[done:])
            taken, found = machine.take(events[done:], times[done:])
            results += [msgspec.structs.replace(result, index=result.index + done) for result in found]
            done += taken
        return results

    def provide(self, machine: Machine, events: list[Event], times: list[int]) -> None:
        while names := machine.needs(events, times):
            machine.load({name: self.kept.get(name) for name in names})


class Wrong(AssertionError):
    """A transcript does not say what happens."""


def singly(transcript: Transcript, make: Make) -> None:
    machine, store = make(transcript.computation, transcript.sources), Store()
    for step in transcript.steps:
        _compare(step, store.take(machine, [step.event], [step.now]))
        mark = getattr(machine, "watermark", None)
        if step.watermark is not None and mark != step.watermark:
            raise Wrong(f"line {step.line}: watermark {seconds(mark or 0)}, expected {seconds(step.watermark)}")


def together(transcript: Transcript, make: Make) -> None:
    machine, store = make(transcript.computation, transcript.sources), Store()
    steps = transcript.steps
    results = store.take(machine, [step.event for step in steps], [step.now for step in steps])
    for index, step in enumerate(steps):
        _compare(step, [result for result in results if result.index == index])
    if [result.index for result in results] != sorted(result.index for result in results):
        raise Wrong("results are not in order of index")


def interrupted(transcript: Transcript, make: Make) -> None:
    machine, store = make(transcript.computation, transcript.sources), Store()
    for number, step in enumerate(transcript.steps):
        _compare(step, store.take(machine, [step.event], [step.now]))
        store.save(machine)
        if number % 2:
            machine = make(transcript.computation, transcript.sources)
        else:
            machine.shrink(0)


def _compare(step: Step, results: Iterable[Result]) -> None:
    found = [spoken(result) for result in results]
    if found != step.expected:
        lines = "\n".join(f"   {text}" for text in found) or "   nothing"
        raise Wrong(f"line {step.line}: expected {step.expected or 'nothing'}, found\n{lines}")


WAYS = (singly, together, interrupted)
