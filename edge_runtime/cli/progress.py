"""Progress bars for what takes long: building the sandbox guest the first time, and flashing a board."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from edge_runtime.cli.console import err


@contextlib.contextmanager
def guest_progress() -> Iterator[Callable[[str, float], None]]:
    """A callback `(phase, fraction)` that draws a bar on standard error from its first call on."""
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err, transient=True)
    task = bar.add_task("Preparing the sandbox", total=1.0)
    shown = False

    def progress(phase: str, fraction: float) -> None:
        nonlocal shown
        if not shown:
            bar.start()
            shown = True
        bar.update(task, description=phase, completed=fraction)

    try:
        yield progress
    finally:
        if shown:
            bar.stop()


class Steps:
    """A bar for each step, on standard error: in a terminal they move, elsewhere each is a line. A context manager."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:24}"), BarColumn(), TextColumn("{task.fields[what]}"))
        self._bars = Progress(*columns, TimeElapsedColumn(), console=err)
        self._tasks: dict[str, TaskID] = {}
        self._last: TaskID | None = None

    def __enter__(self) -> Steps:
        if err.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._last is not None:
            self._bars.update(self._last, total=1.0, completed=1.0)
        if err.is_terminal:
            self._bars.stop()

    def show(self, step: str, part: float | None, what: str = "") -> None:
        """How far a step is, from 0 to 1, or None where nobody knows; another one than before ends that."""
        if step not in self._tasks:
            if self._last is not None:
                self._bars.update(self._last, total=1.0, completed=1.0)
            self._tasks[step] = self._bars.add_task(step, total=None if part is None else 1.0, what="")
            if not err.is_terminal:
                err.print(f"{step} ...")
        self._last = self._tasks[step]
        self._bars.update(self._last, completed=part, what=what)
