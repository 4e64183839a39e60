"""Asks whoever deploys an app whether it may have what it asks for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from edge_runtime.cli.console import escaped, out
from edge_runtime.errors import DeployError
from edge_runtime.grants import sentence
from edge_runtime.planes.messages import Deployed

Granted = Annotated[
    list[str] | None,
    typer.Option("--grant", metavar="GRANT", help="Approve what the app asks for, such as http:api.example.com."),
]


def approved(attempt: Callable[[Sequence[str]], Deployed], grants: Sequence[str] | None, *, check: bool) -> Deployed:
    """Make an `attempt` with what is approved; where more is asked for, ask the person, and try again.

    Raises `DeployError` where there is nobody to ask, or the answer is no.
    """
    given = list(grants or ())
    found = attempt(given)
    if not found.asks or check:
        return found
    what = ", ".join(sentence(grant) for grant in found.asks)
    options = " ".join(f"--grant {shlex.quote(grant)}" for grant in found.asks)
    refused = DeployError(
        f"{found.app} was not put live: it asks to {what}, and nobody has approved that", hint=f"Approve it: {options}"
    )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise refused
    out.print(f"[bold]{found.app}[/] asks to be allowed to")
    for grant in found.asks:
        out.print(f"  {escaped(sentence(grant))}")
    if not typer.confirm("Approve?"):
        raise refused
    return attempt([*given, *found.asks])
