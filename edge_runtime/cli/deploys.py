"""`edge deploy`, `edge rollback`, `edge replay`: apps into the gateway, back out of it, and tried on the past."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from edge_runtime.cli.approval import Granted, approved
from edge_runtime.cli.apps import AppName, described
from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, err, escaped, out, print_json
from edge_runtime.cli.flows import Since, moment, say_replayed
from edge_runtime.clock import SystemClock
from edge_runtime.errors import DeployError, EdgeError
from edge_runtime.functions.sources import read_files
from edge_runtime.functions.vendor import with_packages
from edge_runtime.grants import sentence
from edge_runtime.planes.client import connect
from edge_runtime.planes.messages import Deployed
from edge_runtime.planes.rehearsal import AppReplay


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(deploy)
    app.command()(rollback)
    app.command()(replay)


def deploy(
    app: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="The app: a file, or a folder with a main.py.")],
    config_path: ConfigPath = CONFIG,
    check: Annotated[bool, typer.Option("--check", help="Only see whether it could go live.")] = False,
    dry_run: Annotated[
        int, typer.Option(metavar="N", help="First run it over the last N events of each function, without any effect.")
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Put it live although it fails in the dry run.")] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Fetch the packages of requirements.txt anew.")] = False,
    grant: Granted = None,
    as_json: AsJson = False,
) -> None:
    """Put an app live as a new version, without restarting anything; a broken one changes nothing."""
    if dry_run < 0:
        raise EdgeError(f"--dry-run {dry_run} is not a number of events", hint="Say, for example, --dry-run 1000.")
    started = time.monotonic()
    files = with_packages(read_files(app), app, err.print, now=SystemClock().now(), upgrade=upgrade)
    with connect(config_path) as client:
        found = approved(
            lambda given: client.deploy(files, check=check, grants=given, dry_run=dry_run, force=force),
            grant,
            check=check,
        )
    if as_json:
        print_json(found)
    else:
        _say(found, time.monotonic() - started, "could go live" if check else "is live")
    if found.refused and not force:
        raise DeployError(
            f"{found.app} {'would not go live' if check else 'did not go live'}: {found.refused}",
            hint="Mend it, or insist with --force. What was live goes on.",
        )


def rollback(
    app: AppName,
    to: Annotated[str, typer.Option(help="A version of `edge apps versions`; else the one live before.")] = "",
    grant: Granted = None,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Put the version of an app live again that was live before. What its functions keep stays."""
    started = time.monotonic()
    with connect(config_path) as client:
        found = approved(lambda given: client.rollback(app, to, grants=given), grant, check=False)
    if as_json:
        print_json(found)
    else:
        _say(found, time.monotonic() - started, "is live again")


def replay(
    app: AppName,
    version: Annotated[str, typer.Option(help="A version of `edge apps versions`; else the live one.")] = "",
    against: Annotated[str, typer.Option(help="Another version to compare with; else what was done.")] = "",
    to: Annotated[str, typer.Option("--from", help="The first record to look at, or earliest.")] = "",
    since: Since = "",
    limit: Annotated[int, typer.Option(help="Events that go through each function at most.")] = 10_000,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Dry run: what would a version of an app do with the events of the past, compared with what was done?

    Nothing is stored and nothing is sent.
    """
    start = moment(to, since)
    if start is None:
        raise EdgeError("from where?", hint="Say --since 1d, --since earliest or --from OFFSET.")
    with connect(config_path) as client:
        found = client.replay_app(app, AppReplay(start, version, against, limit))
    if as_json:
        print_json(found)
        return
    other = f"version {found.against}" if found.against else "what was done"
    out.print(f"[bold]{found.app}[/] in version [bold]{found.version}[/], compared with {other}:")
    for function in found.functions:
        say_replayed(function)


def _say(found: Deployed, seconds: float, state: str) -> None:
    for function in found.dry:
        say_replayed(function)
    if not found.refused or found.live:
        out.print(
            f"[bold]{found.app}[/] {'was live already' if found.unchanged else state} in version"
            f" [bold]{found.version}[/] ({seconds * 1e3:.0f} ms, of it {found.cold_start / 1e3:.1f} ms to start it in"
            " the sandbox)"
        )
        for trigger in found.triggers:
            out.print(f"  {described(trigger)}")
    for asked in found.asks:
        out.print(f"  asks to {escaped(sentence(asked))}: to be approved when it is deployed")
