"""Engines: what an executor process runs. The pool starts executors of any of them alike."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_runtime.functions.sandbox.spawn import command


class Engine(msgspec.Struct, frozen=True):
    """A program that serves functions: a module of ours whose `main()` speaks `sandbox/protocol.py` over its stdin.

    Two engines that are equal share their executors.
    """

    name: str
    """For people: "python", "javascript"."""
    module: str
    arguments: tuple[str, ...] = ()
    """`sys.argv[1:]` of the process; readable by other users of the machine, so no secrets."""
    shared: bool = True
    """Whether one executor serves several apps; otherwise each instance of an app has an executor of its own."""

    @property
    def command(self) -> list[str]:
        """The command line of an executor, to be started with an empty environment."""
        return command(self.module, *self.arguments)


def python_engine(compiled: Path, stock: int) -> Engine:
    """Python in WebAssembly: the guest's machine code, and how many virgin instances each executor keeps ready."""
    return Engine("python", "edge_runtime.functions.sandbox.executor", (str(compiled), str(stock)))
