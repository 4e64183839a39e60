"""`edge dead`: dead letters, to be seen, retried or dropped."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, ago, count, escaped, out, print_json
from edge_runtime.cli.devices import check_device
from edge_runtime.clock import SystemClock
from edge_runtime.flows.deadletters import Selection, Settled
from edge_runtime.planes.api_operations import Which
from edge_runtime.planes.client import connect
from edge_runtime.planes.moments import shown


def _offset(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        message = f"a dead letter is named by its record's number, not by '{text}'; see `edge dead list`"
        raise typer.BadParameter(message) from None


OfFlow = Annotated[str, typer.Option("--flow", help="Only this flow's; `ingress` for what boards sent.")]
OfDevice = Annotated[str, typer.Option("--device", help="Only of this device.")]
ForReason = Annotated[str, typer.Option("--reason", help="Only with this reason: error, timeout, memory, ...")]
Offsets = Annotated[
    list[int] | None, typer.Argument(parser=_offset, metavar="OFFSET...", help="As in `edge dead list`.")
]
All = Annotated[bool, typer.Option("--all", help="Every open letter that the other options let through.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="Dead letters: see what could not be processed, and settle it.", no_args_is_help=True)
    group.command("list")(list_)
    for verb in (show, retry, drop, export):
        group.command()(verb)
    app.add_typer(group, name="dead")


def list_(
    flow: OfFlow = "",
    device: OfDevice = "",
    reason: ForReason = "",
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 100,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show the open dead letters, the newest last."""
    with connect(config_path) as client:
        check_device(client, device)
        found = client.letters(Which(flow, device, reason, limit))
    if as_json:
        print_json(found)
        return
    now = SystemClock().now()
    for row in found.letters:
        tries = f"{row.attempts} tries" if row.attempts > 1 else "1 try"
        facts = (f"[bold]{row.offset:>8}[/]", f"{ago(row.time, now)} ago", row.flow, f"[red]{row.reason}[/]")
        out.print("  ".join((*facts, row.device, row.kind, tries)))
        if row.summary:
            out.print(f"          [dim]{escaped(row.summary)}[/]")
    hidden = found.open - len(found.letters)
    if hidden or not found.letters:
        out.print(f"Open: {count(found.open, 'dead letter')}" + (f", {hidden} of them not shown." if hidden else "."))
    if found.older:
        out.print(f"{found.older} of them are too old to be listed yet: they come up as newer ones are settled.")


def show(
    offset: Annotated[int, typer.Argument(parser=_offset, metavar="OFFSET", help="As in `edge dead list`.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show a dead letter in full: its event, what went wrong and where."""
    with connect(config_path) as client:
        found = client.letter(offset)
    if as_json:
        print_json(found)
        return
    letter = found.letter
    facts = {
        "dead letter": f"{letter.offset}, {found.state}",
        "flow": letter.flow,
        "version": letter.version,
        "reason": f"{letter.reason}, after {letter.attempts} tries" if letter.attempts > 1 else letter.reason,
        "at": shown(letter.time),
        "device": letter.device,
        "event": letter.event,
        "kind": letter.kind,
        "of": shown(found.time) if found.time else "",
        "data": msgspec.json.encode(found.data).decode() if letter.event else "",
        "topic": found.topic,
        "payload": found.payload.hex(" "),
    }
    for name, value in facts.items():
        if value:
            out.print(f"[dim]{name:>11}[/]  {escaped(value)}")
    out.print(escaped(found.detail))


def retry(
    offsets: Offsets = None,
    every: All = False,
    flow: OfFlow = "",
    device: OfDevice = "",
    reason: ForReason = "",
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Hand the events of dead letters to their flows once more, marked late."""
    with connect(config_path) as client:
        check_device(client, device)
        found = client.retry(Selection(offsets or [], every, flow, device, reason))
    _say(found, "Handed to their flows again", as_json)


def drop(
    offsets: Offsets = None,
    every: All = False,
    flow: OfFlow = "",
    device: OfDevice = "",
    reason: ForReason = "",
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Settle dead letters without doing anything about them; they stay in the journal."""
    with connect(config_path) as client:
        check_device(client, device)
        found = client.drop(Selection(offsets or [], every, flow, device, reason))
    _say(found, "Dropped", as_json)


def export(
    flow: OfFlow = "",
    device: OfDevice = "",
    reason: ForReason = "",
    config_path: ConfigPath = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="As it does anyway.")] = True,
) -> None:
    """Print every open dead letter in full, a line of JSON each."""
    with connect(config_path) as client:
        check_device(client, device)
        for letter in client.export_letters(Which(flow, device, reason)):
            sys.stdout.write(msgspec.json.encode(letter).decode() + "\n")


def _say(found: Settled, what: str, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    out.print(f"{what}: {count(len(found.letters), 'dead letter')}.")
    for why, number in found.skipped.items():
        out.print(f"{number} not: {escaped(why)}.")
