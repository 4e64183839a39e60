"""`edge device shell|logs|reset|files`: a board on a port of this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from devices.flash.errors import FlashError, gone, missing_tool
from devices.flash.ports import check, find, opened
from devices.flash.prompt import Prompt
from edge_runtime.cli.console import CONFIG, ConfigPath, err, escaped, out
from edge_runtime.cli.ports import lent
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.planes.client import NotRunning, connect

Device = Annotated[str, typer.Argument(help="A registered device, that `edge flash` was used for.")]
Port = Annotated[Path | None, typer.Option(help="Its serial port, where that is not known.")]
WAYS = {"ls": "ls", "tree": "tree", "cat": "cat", "rm": "rm", "mkdir": "mkdir", "put": "cp", "get": "cp"}


def register(group: typer.Typer) -> None:
    """Add the verbs to `edge device`."""
    for verb in (shell, logs, reset, files):
        group.command()(verb)


def shell(device: Device, port: Port = None, config_path: ConfigPath = CONFIG) -> None:
    """MicroPython's prompt on a board that is connected here. Ctrl-C stops the program, Ctrl-] leaves."""
    with _port(device, port, config_path) as where:
        _mpremote(where, "resume", "repl")
    err.print(f"If its program was stopped, start it with: edge device reset {escaped(device)}")


def logs(
    device: Device,
    port: Port = None,
    seconds: Annotated[float, typer.Option(help="Stop after so long; 0: at Ctrl-C.")] = 0,
    config_path: ConfigPath = CONFIG,
) -> None:
    """Show what a board that is connected here prints, without saying anything to it."""
    end = time.monotonic() + seconds
    with _port(device, port, config_path) as where, opened(where) as line:
        while not seconds or time.monotonic() < end:
            try:
                data = line.read()
            except OSError:
                raise gone(str(where)) from None
            sys.stdout.buffer.write(data)
            sys.stdout.flush()


def reset(device: Device, port: Port = None, config_path: ConfigPath = CONFIG) -> None:
    """Start a board anew that is connected here."""
    with _port(device, port, config_path) as where:
        Prompt(where).reset()
    out.print(f"{escaped(device)} starts anew.")


def files(
    device: Device,
    way: Annotated[str, typer.Argument(metavar="ls|tree|cat|get|put|rm|mkdir", help="What to do.")] = "ls",
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH...", help="On the board; `get FROM TO`, `put FROM TO`.")
    ] = None,
    port: Port = None,
    start: Annotated[
        bool, typer.Option(help="Start the board anew afterwards: its program was stopped for this.")
    ] = True,
    config_path: ConfigPath = CONFIG,
) -> None:
    """Look at the files of a board that is connected here, and change them."""
    if way not in WAYS:
        raise EdgeError(f"'{way}' cannot be done with files", hint=f"There is: {', '.join(WAYS)}.")
    given = list(paths or ([] if way in ("cat", "rm", "mkdir", "put", "get") else ["/"]))
    if not given or (way in ("put", "get") and len(given) != 2):
        raise EdgeError(f"'{way}' needs {'two paths' if way in ('put', 'get') else 'a path'}")
    if way == "put":
        given[1] = f":{given[1]}"
    elif way == "get":
        given[0] = f":{given[0]}"
    with _port(device, port, config_path) as where:
        status = _mpremote(where, "fs", WAYS[way], *given)
        if start:
            Prompt(where).reset()
    if status:
        raise typer.Exit(1)


def _mpremote(port: Path, *arguments: str) -> int:
    """Run it on this terminal."""
    if find_spec("mpremote") is None:
        raise missing_tool("mpremote")
    command = [sys.executable, "-m", "mpremote", "connect", os.path.realpath(port), *arguments]
    return subprocess.run(command, check=False).returncode


@contextlib.contextmanager
def _port(device: str, port: Path | None, config_path: Path) -> Iterator[Path]:
    """Where the board is, for us alone: at the port that is named, or at that with the USB serial number of its tag."""
    with contextlib.ExitStack() as lease:
        try:
            client = lease.enter_context(connect(config_path))
            where = port or _known(device, client.device(device).tags.get("usb", "") if port is None else "")
            lease.enter_context(lent(client, where))
        except (NotRunning, ConfigError):  # then it has no port either
            if port is None:
                raise
            where = port
        check(where)
        yield where


def _known(device: str, number: str) -> Path:
    attached = [each for each in find() if not each.drive]
    matching = [each for each in attached if number and each.number[:64] == number]
    if len(matching) != 1:
        lines = "".join(f"\n  {each.line}" for each in attached)
        raise FlashError(
            f"it is not known at which port {device} is" + (f"; connected are:{lines}" if lines else ""),
            hint="Name it with --port." if lines else "No board is connected to this machine.",
        )
    return matching[0].where
