"""The live view of the demo: what came in, what ran, what went out, drawn from the journal's lines and the status."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edge_runtime.flows.stats import percentile
from edge_runtime.planes.messages import Line, Status

BARS = "▁▂▃▄▅▆▇█"
PLOT_WIDTH = 40
SHOWN_COMMANDS = 6


def plot(values: Sequence[float], low: float, high: float) -> str:
    """A line of block characters, one for each value, between `low` and `high`."""
    span = max(high - low, 1e-9)
    top = len(BARS) - 1
    return "".join(BARS[min(top, max(0, round((value - low) / span * top)))] for value in values)


class Picture:
    """What the view knows. Fed with lines and statuses; drawn on demand. Times in microseconds."""

    def __init__(self, kind: str, field: str) -> None:
        self._kind = kind
        self._field = field
        self._readings: dict[str, deque[float]] = {}
        self._fans: dict[str, bool] = {}
        self._commands: deque[str] = deque(maxlen=SHOWN_COMMANDS)
        self._open: dict[str, int] = {}
        self._latest: Status | None = None
        self._rate = 0.0
        self._dead: deque[str] = deque(maxlen=3)

    def line(self, line: Line) -> None:
        """A record has entered the journal."""
        if line.type == "event" and line.name == self._kind and isinstance(line.data, dict):
            value = line.data.get(self._field)
            if isinstance(value, int | float):
                self._readings.setdefault(line.device, deque(maxlen=PLOT_WIDTH)).append(value)
            if "fan" in line.data:
                self._fans[line.device] = bool(line.data["fan"])
        elif line.type == "command":
            self._open[line.id] = line.time
            self._commands.append(f"{line.device}  {line.name} {line.data}")
        elif line.type == "command-end":
            sent = self._open.pop(line.id, None)
            took = "" if sent is None else f" after {(line.time - sent) / 1e3:.0f} ms"
            self._commands.append(f"{line.device}  replied: {line.name}{took}")
        elif line.type == "dead-letter":
            detail = line.data.get("detail", "") if isinstance(line.data, dict) else ""
            self._dead.append(f"{line.device}  {line.name}: {detail.splitlines()[-1] if detail else ''}")

    def status(self, status: Status) -> None:
        """The gateway's counters, asked for now and then."""
        before = self._latest
        if before is not None and status.now > before.now:
            self._rate = (status.events - before.events) / (status.now - before.now) * 1e6
        self._latest = status

    def draw(self) -> RenderableType:
        """The whole view."""
        parts: list[RenderableType] = [Panel(self._boards(), title="boards", title_align="left")]
        if self._latest is not None:
            parts.append(Panel(self._gateway(self._latest), title="gateway", title_align="left"))
        commands = Text("\n".join(self._commands) or "none yet: a fan is switched when it gets too warm")
        parts.append(Panel(commands, title="commands", title_align="left"))
        if self._dead:
            parts.append(Panel(Text("\n".join(self._dead), style="red"), title="dead letters", title_align="left"))
        return Group(*parts)

    def _boards(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        values = [value for readings in self._readings.values() for value in readings]
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        for device, readings in sorted(self._readings.items()):
            fan = "[green]fan on[/]" if self._fans.get(device) else "[dim]fan off[/]"
            line = Text(plot(list(readings), low, high), style="cyan")
            table.add_row(f"[bold]{device}[/]", line, f"{readings[-1]:.1f} °C", fan)
        if not self._readings:
            table.add_row("waiting for the first reading")
        return table

    def _gateway(self, status: Status) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        cold = percentile(status.cold_starts, 0.5) / 1e3
        failures = f", [red]{sum(status.failures.values())} failed[/]" if status.failures else ""
        table.add_row("events", f"{self._rate:.1f}/s, {status.events} stored, each fsynced before its acknowledgement")
        table.add_row("functions", f"{status.calls} calls{failures}, a cold start takes {cold:.1f} ms")
        table.add_row(
            "commands", f"{status.commands_delivered} sent, {status.commands_ended} answered, {status.outbox} under way"
        )
        for row in status.flows:
            waiting = f", [yellow]waiting: {row.waiting}[/]" if row.waiting else ""
            what = "delivered to the cloud" if row.type == "route" else "handled"
            table.add_row(
                f"  {row.flow}",
                f"{row.events} {what}, p50 {row.p50 / 1e3:.1f} ms, p99 {row.p99 / 1e3:.1f} ms, lag {row.lag}{waiting}",
            )
        return table
