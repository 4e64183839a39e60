"""`edge init`, `edge run`, `edge status`."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from devices.authority import Authority, own_names
from edge_runtime import config
from edge_runtime.cli import glance
from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, err, out, print_json
from edge_runtime.cli.progress import guest_progress
from edge_runtime.cli.supervisor import Supervisor
from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.planes.client import NotRunning, connect
from edge_runtime.planes.exposition import exposition
from edge_runtime.planes.logs import open_logs

EXIT_RESTART = 75
"""The gateway cannot go on but will recover when started again (a service manager does that)."""
OTHER_FILES = 1024
"""Open files that are no connections of the MQTT door: the other doors', the journal's, the executors', the logs."""


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(init)
    app.command()(run)
    app.command()(status)


def init(
    folder: Annotated[Path, typer.Argument(help="Where the configuration goes; made if missing.")] = Path("."),
    lan: Annotated[
        bool, typer.Option("--lan", help="Open the MQTT door to the network, with TLS and a CA of its own.")
    ] = False,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", help="With --lan: one more name or address that the gateway has; repeatable."),
    ] = None,
) -> None:
    """Write a commented edge.toml with every setting at its default."""
    path = folder / CONFIG
    if names and not lan:
        raise ConfigError("--name is for the certificate that --lan makes", hint="Add --lan, or leave it out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(config.lan_text() if lan else config.default_text())
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():
            raise ConfigError(f"{path} is there already", hint="It was not touched.") from None
        hint = "Choose a folder that you may write to."
        raise ConfigError(f"{path} cannot be written: {error.strerror}", hint=hint) from None
    if lan:
        try:
            _make_authority(config.load(path), names or [])
        except EdgeError:
            path.unlink()  # so that it can be tried again
            raise
    next_step = "edge run" if path == CONFIG else f"edge run --config {path}"
    out.print(f"Wrote {path}. Next: [bold]{next_step}[/]")


def _make_authority(settings: config.Config, names: list[str]) -> None:
    authority = Authority(settings.authority)
    now = SystemClock().now()
    if not authority.exists:
        authority.make(settings.gateway.name, now)
    known = list(dict.fromkeys([*own_names(), *names]))
    authority.renew(known, now, look=True)
    out.print(f"The gateway is to be reached with TLS as {', '.join(known)}.")
    out.print(f"Boards and programs know it by {authority.certificate}; the other files there are for nobody else.")


def run(config_path: ConfigPath = CONFIG) -> None:
    """Run the gateway until Ctrl-C or SIGTERM."""
    settings = config.load(config_path)
    open_logs(settings.gateway.data / "logs")
    _make_room_for_connections(settings.mqtt.max_connections)
    raise typer.Exit(uvloop.run(_serve(settings)))


def _make_room_for_connections(number: int) -> None:
    """Raise the limit on open files as far as may be: by custom it is 1,024, and each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number + OTHER_FILES
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    if hard < wanted:
        logging.getLogger("edge.gateway").warning(
            "the system allows %d open files, too few for mqtt.max_connections = %d (ulimit -Hn, LimitNOFILE=)",
            hard,
            number,
        )


async def _serve(settings: config.Config) -> int:
    # Here, and not above: every other verb would wait for the whole house to be imported.
    from edge_runtime.gateway import Gateway
    from edge_runtime.planes.api import ApiServer

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    asked = asyncio.ensure_future(stopping.wait())
    with guest_progress() as progress:
        starting = asyncio.ensure_future(Gateway.start(settings, progress=progress))
        await asyncio.wait({asked, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
    if stopping.is_set() and starting.exception() is not None:
        return 0  # whoever ended us may have ended a process of the start as well
    gateway = starting.result()
    supervisor = Supervisor()
    beating = asyncio.ensure_future(supervisor.beat())
    try:
        api = ApiServer(gateway, settings.socket)
        await api.start()
        # What was made while starting stays: the collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        supervisor.tell("READY=1", f"STATUS=boards connect to mqtt://{gateway.status().mqtt}")
        broken = asyncio.ensure_future(gateway.broken())
        await asyncio.wait({asked, broken}, return_when=asyncio.FIRST_COMPLETED)
        for task in (asked, broken):
            task.cancel()
        supervisor.tell("STOPPING=1")
        await api.stop()
    finally:
        beating.cancel()
        await gateway.stop()
    if stopping.is_set():
        logging.getLogger("edge.gateway").info("stopped, as it was asked to")
        return 0
    err.print("[bold red]edge:[/] the journal's writer has ended; start the gateway again, it recovers by itself")
    return EXIT_RESTART


def status(
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
    prometheus: Annotated[
        bool, typer.Option("--prometheus", help="Print all figures as Prometheus reads them.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the gateway to be up.")] = 0,
) -> None:
    """Show the running gateway at a glance."""
    with connect(config_path) as client:
        deadline = time.monotonic() + wait
        while True:
            try:
                found = client.status()
                break
            except NotRunning:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)
        if prometheus:
            sys.stdout.write(exposition(found, client.apps()))
            return
    if as_json:
        print_json(found)
        return
    for sentence in glance.sentences(found):
        out.print(sentence)
    if found.flows:
        out.print(glance.flows(found.flows))
    for route in glance.routes(found.flows):
        out.print(route)
