"""`edge doctor`: looks at everything the gateway stands on, and says what to do about what is wrong."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import typer

from edge_runtime import config
from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, out, print_json
from edge_runtime.errors import EdgeError
from edge_runtime.functions.sandbox import build, cache
from edge_runtime.journal.sqlite import damage
from edge_runtime.planes import backups
from edge_runtime.planes.client import Client, NotRunning
from edge_runtime.planes.messages import Finding, FlowRow

SHOWN = 5
"""Held keys named in one line."""
ROOM_WANTED = 256 << 20
"""Free disk space below which a gateway will soon stop acknowledging."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


def doctor(config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Check the machine, the configuration, the sandbox and the running gateway."""
    findings = list(examine(config_path))
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            mark = "[green]ok[/]  " if finding.ok else "[red]look[/]"
            out.print(f"{mark} {finding.what}: {finding.found}")
            if finding.advice:
                out.print(f"     {finding.advice}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def examine(path: Path) -> Iterator[Finding]:
    """All findings, one after the other."""
    machine = f"Python {platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores"
    known = platform.machine() in ("x86_64", "aarch64") and sys.platform == "linux"
    yield Finding(known, "machine", machine, "" if known else "Linux on x86_64 or aarch64 is what the sandbox runs on.")
    guest = build.SHIPPED if build.SHIPPED.exists() else cache.default_folder() / f"guest-{build.guest_version()}.wasm"
    if os.access(guest, os.R_OK):
        yield Finding(True, "sandbox guest", str(guest))
    else:
        buildable = bool(build.builder_version())
        advice = (
            "The first 'edge run' builds it, in about a minute." if buildable else "pip install 'edge-runtime[guest]'"
        )
        yield Finding(buildable, "sandbox guest", "not built yet", advice)
    functions_framework = find_spec("functions_framework") is not None
    yield Finding(
        True,
        "local cloud",
        "functions-framework is installed" if functions_framework else "not installed (only the demo needs it)",
    )
    try:
        settings = config.load(path)
    except EdgeError as error:
        yield Finding(False, "configuration", str(error), error.hint)
        return
    yield Finding(True, "configuration", str(path))
    yield from _native(settings)
    yield from _data(settings.gateway.data)
    yield from _running(settings)


def _native(settings: config.Config) -> Iterator[Finding]:
    """The apps that have one wall less, and whether what they are to import is here."""
    for name, app in settings.apps.items():
        what = f"app {name}"
        if app.tier == "sandbox" and app.preload:
            advice = 'Take it out, or set tier = "native".'
            yield Finding(False, what, "has a 'preload', which only the native tier knows", advice)
        if app.tier == "native":
            absent = [module for module in app.preload if find_spec(module.partition(".")[0]) is None]
            found = (
                f"{', '.join(absent)} of its 'preload' cannot be found"
                if absent
                else "native: the kernel alone holds it"
            )
            yield Finding(not absent, what, found, f"{sys.executable} -m pip install NAME" if absent else "")


def _journal(path: Path) -> Iterator[Finding]:
    """Read through a journal that nobody has open."""
    if path.exists():
        report = damage.examine(path)
        yield Finding(report.ok, "journal", " ".join(report.lines()[:-1]), "" if report.ok else report.advice)


def _data(folder: Path) -> Iterator[Finding]:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    writable = os.access(existing, os.W_OK)
    yield Finding(
        writable,
        "data folder",
        f"{folder} {'is writable' if writable else 'cannot be written'}",
        "" if writable else "Run the gateway as the folder's owner, or name another gateway.data.",
    )
    free = shutil.disk_usage(existing).free
    yield Finding(
        free > ROOM_WANTED,
        "disk",
        f"{free >> 20} MiB free",
        "" if free > ROOM_WANTED else "Without room nothing is acknowledged; boards keep their readings meanwhile.",
    )


def _running(settings: config.Config) -> Iterator[Finding]:
    try:
        with Client(settings.socket) as client:
            status = client.status()
    except NotRunning:
        yield Finding(True, "gateway", "not running")
        yield from _journal(settings.gateway.data / backups.JOURNAL)
        yield _port(settings)
        return
    except EdgeError as error:
        yield Finding(False, "gateway", str(error), error.hint)
        return
    yield Finding(True, "gateway", f"running, boards connect to {status.mqtt}, {status.connections} connected")
    for text in status.jail:
        weak = text.startswith("missing")
        yield Finding(True, "jail", text, "The layers that are in force hold on their own." if weak else "")
    health = status.health
    advice = "Free disk space or raise journal.max_size; it goes on by itself." if health.state == "full" else ""
    yield Finding(health.state == "ok", "health", health.words, advice)
    if status.skewed:
        worst = sorted(status.skewed.items(), key=lambda item: -abs(item[1]))
        found = ", ".join(f"{device} {abs(skew) // 10**6} s" for device, skew in worst[:SHOWN])
        more = f" and {len(worst) - SHOWN} more" if len(worst) > SHOWN else ""
        yield Finding(False, "device clocks", f"off: {found}{more}", "Have the board set its clock (NTP).")
    for row in status.flows:
        waits = [key for key, parked in row.held.items() if parked]
        found = row.waiting or f"{row.state}, lag {row.lag}"
        if waits:
            found += f"; held back until released: {', '.join(waits[:SHOWN])}{' ...' if len(waits) > SHOWN else ''}"
        yield Finding(not row.waiting and not waits and row.state != "stopped", f"flow {row.flow}", found, _advice(row))


def _advice(row: FlowRow) -> str:
    if row.state == "stopped" or any(row.held.values()):
        return f"See why with: edge dead list --flow {row.flow}; then: edge flow release {row.flow} KEY"
    if row.route is not None and row.route.last_error and row.waiting:
        return "It goes on by itself when the target answers."
    return f"It goes on with: edge flow resume {row.flow}" if row.paused else ""


def _port(settings: config.Config) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.mqtt.host, settings.mqtt.port))
        except OSError as error:
            return Finding(False, "mqtt.listen", f"{settings.mqtt.listen}: {error.strerror}", "Choose another port.")
    return Finding(True, "mqtt.listen", f"{settings.mqtt.listen} is free")
