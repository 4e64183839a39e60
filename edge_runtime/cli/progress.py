"""A progress bar for the one thing that takes long: building the sandbox guest the first time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

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
