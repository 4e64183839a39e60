"""Runs esptool and mpremote, each as a process of its own, and hears what they say line by line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from devices.flash.errors import missing_tool

MAX_SAID = 1 << 20
"""Characters of a tool's output that are kept; a board can print for ever."""
MAX_LINE = 64 << 10
"""Characters after which a line that does not end is taken for one."""


@dataclass(frozen=True)
class Ended:
    """A tool that has ended."""

    status: int
    said: str
    """Both its outputs."""
    late: bool
    """Whether it was ended because its time was up."""


def run(
    tool: str,
    arguments: Sequence[str],
    heard: Callable[[str], None] = lambda line: None,
    *,
    timeout: float,
    descriptors: Sequence[int] = (),
) -> Ended:
    """Run an installed tool to its end, for `timeout` seconds at most; `heard` gets each line. Raises FlashError.

    `descriptors` are handed to it, under their numbers.
    """
    if find_spec(tool) is None:
        raise missing_tool(tool)
    # Long lines stay whole, and there are no colours in them.
    environment = os.environ | {"COLUMNS": "250", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", tool, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        encoding="utf-8",
        errors="replace",
        pass_fds=descriptors,
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout, end)
    timer.start()
    said: list[str] = []
    size = 0
    with process:
        try:
            assert process.stdout is not None
            while line := process.stdout.readline(MAX_LINE):
                size += len(line)
                if size <= MAX_SAID:
                    said.append(line)
                heard(line)
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
    return Ended(process.returncode, "".join(said), late.is_set())
