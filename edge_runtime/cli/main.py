"""Puts the verbs together, and turns errors into sentences."""

from __future__ import annotations

import sys

import typer

from edge_runtime import __version__
from edge_runtime.cli import (
    apps,
    backup,
    dead,
    demo,
    deploys,
    devices,
    doctor,
    explain,
    flash,
    flows,
    gateway,
    ota,
    secrets,
    trace,
    users,
    watch,
)
from edge_runtime.cli.console import problem
from edge_runtime.errors import EdgeError

app = typer.Typer(
    name="edge",
    help="An edge gateway for microcontrollers: durable ingest, sandboxed functions, commands back, cloud bridge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


for group in (
    gateway,
    devices,
    flash,
    ota,
    deploys,
    apps,
    explain,
    secrets,
    users,
    flows,
    dead,
    watch,
    trace,
    backup,
    doctor,
    demo,
):
    group.register(app)


def main() -> None:
    """Run the command line; a mistake ends it with one sentence and status 1, never with a stack trace."""
    try:
        app()
    except EdgeError as error:
        problem(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone (`edge tail | head`): nothing is wrong.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # A file or folder that nobody has asked about in particular: the system's own words say it.
        where = f"{error.filename}: " if error.filename else ""
        problem(EdgeError(f"{where}{error.strerror or error}", hint="Check that it is there, and who may use it."))
        sys.exit(1)
