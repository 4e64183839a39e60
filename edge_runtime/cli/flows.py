"""`edge flow`: how the flows stand, and every verb on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, count, escaped, out, print_json, table, took
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError
from edge_runtime.flows.flows import Choice
from edge_runtime.flows.replay import Difference, Replayed
from edge_runtime.planes.client import connect
from edge_runtime.planes.control import ReplayRequest, Rewind, Rewound
from edge_runtime.planes.messages import FlowRow
from edge_runtime.planes.moments import EARLIEST, Moment, parse

FlowName = Annotated[str, typer.Argument(metavar="FLOW", help="The flow, as in `edge flow list`: APP.FUNCTION.")]
Since = Annotated[
    str, typer.Option(help="How long ago (15m, 1h, 2d), a moment (2026-11-22T10:00, local time), or earliest.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="See flows (functions and routes at work) and control them.", no_args_is_help=True)
    group.command("list")(list_)
    for verb in (pause, resume, rewind, bootstrap, replay, scale, rate, release):
        group.command()(verb)
    app.add_typer(group, name="flow")


def list_(config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show every flow: its state, how far behind it is, its rate and its failures."""
    with connect(config_path) as client:
        rows = client.flows()
    if as_json:
        print_json(rows)
        return
    found = table("flow", "state", "lag", "events/s", "events", "dead", "epoch")
    for row in rows:
        lag = f"{row.lag}, {took(row.lag_us)}" if row.lag_us else str(row.lag)
        epoch = f"{row.epoch}/{row.generation}"
        found.add_row(row.flow, row.state, lag, f"{row.rate:.1f}", str(row.events), str(row.dead_letters), epoch)
    out.print(found if rows else "No flows yet. Deploy an app with: edge deploy FILE")
    for row in rows:
        remarks = "; ".join(_remarks(row))
        if remarks:
            out.print(f"  [bold]{row.flow}[/] {escaped(remarks)}")


def _remarks(row: FlowRow) -> Iterator[str]:
    """What of a flow is out of the ordinary."""
    if row.state == "waiting":
        yield f"waits: {row.waiting}"
    if row.quiet_until >= 0:
        yield f"sends nothing to the outside up to record {row.quiet_until}"
    if row.results:
        yield ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in sorted(row.results.items()))
    if row.lanes > 1:
        yield f"{row.lanes} lanes"
    if row.rate_limit is not None:
        yield f"at most {row.rate_limit:g} events/s"
    if row.held:
        names = ", ".join(f"{key}{' (until released)' * parked}" for key, parked in list(row.held.items())[:5])
        more = f" and {len(row.held) - 5} more" if len(row.held) > 5 else ""
        yield f"holds back {names}{more}"


def pause(flow: FlowName, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Let a flow take no more events, until it is resumed; over restarts too."""
    with connect(config_path) as client:
        _say(client.pause(flow), as_json)


def resume(flow: FlowName, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Let a flow go on where it was paused or has stopped itself."""
    with connect(config_path) as client:
        _say(client.resume(flow), as_json)


def scale(
    flow: FlowName,
    lanes: Annotated[int, typer.Argument(help="Batches that may be under way at a time: 1 to 64.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Let a flow work on several devices at a time; the order of each device is kept."""
    with connect(config_path) as client:
        _say(client.scale(flow, lanes), as_json)


def rate(
    flow: FlowName,
    limit: Annotated[str, typer.Argument(metavar="N|off", help="Events a second, or `off` for no limit.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Hold a flow to a rate, or let it go free again."""
    try:
        events = None if limit == "off" else float(limit)
    except ValueError:
        raise EdgeError(f"'{limit}' is not a rate", hint="Say how many events a second, or off.") from None
    with connect(config_path) as client:
        _say(client.limit(flow, events), as_json)


def release(
    flow: FlowName,
    key: Annotated[str, typer.Argument(help="The partition key that is held back: a device.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Let a flow try the event again at which it holds a device back."""
    with connect(config_path) as client:
        _say(client.release(flow, key), as_json)


def rewind(
    flow: FlowName,
    to: Annotated[str, typer.Option(help="The first record to take again, or earliest.")] = "",
    since: Since = "",
    send: Annotated[bool, typer.Option("--send", help="Carry commands and deliveries out again.")] = False,
    state: Annotated[
        Choice | None,
        typer.Option(help="What becomes of its state: back to what it was then, to nothing, or as it is now."),
    ] = None,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Take again what a flow has taken, from a record or a moment on.

    Commands and deliveries to the outside are withheld until it has come to where the journal ends now, unless --send
    is given. A function that keeps state needs to be told what is to become of it (--state).
    """
    start = moment(to, since)
    if start is None:
        raise EdgeError("from where?", hint="Say --to OFFSET, --since 1h or --since earliest.")
    with connect(config_path) as client:
        _say_rewound(client.rewind(flow, Rewind(start, send, state)), as_json)


def bootstrap(flow: FlowName, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Let a flow take everything that is kept, with nothing sent to the outside, and then go live."""
    with connect(config_path) as client:
        _say_rewound(client.bootstrap(flow), as_json)


def replay(
    flow: FlowName,
    to: Annotated[str, typer.Option("--from", help="The first record to look at, or earliest.")] = "",
    since: Since = "",
    limit: Annotated[int, typer.Option(help="Events that go through the flow at most.")] = 10_000,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Dry run: what would the live version do with the events of the past, compared with what was done?

    Nothing is stored and nothing is sent.
    """
    start = moment(to, since)
    if start is None:
        raise EdgeError("from where?", hint="Say --since 1h, --since earliest or --from OFFSET.")
    with connect(config_path) as client:
        found = client.replay(flow, ReplayRequest(start, limit))
    if as_json:
        print_json(found)
    else:
        say_replayed(found)


def moment(offset: str, since: str) -> Moment | None:
    """The moment of two options, of which one may be given; None for neither."""
    if offset and since:
        raise EdgeError("two places to begin were named", hint="Name one of them.")
    if offset and offset != "earliest":
        if not offset.isdecimal():
            raise EdgeError(f"'{offset}' is not the offset of a record", hint="edge tail shows them at the left.")
        return Moment(offset=int(offset))
    if offset:
        return EARLIEST
    return parse(since, SystemClock().now()) if since else None


def _say(row: FlowRow, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    remarks = "; ".join([f"{count(row.lag, 'record')} behind", *_remarks(row)])
    out.print(f"[bold]{row.flow}[/] is {row.state}: {escaped(remarks)}")


def _say_rewound(found: Rewound, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    sending = (
        "commands and deliveries are carried out again"
        if found.send
        else f"nothing is sent to the outside up to record {found.head}"
    )
    where = f"from record {found.first} (epoch {found.epoch})"
    out.print(f"[bold]{found.flow}[/] takes everything again {where}; {sending}")


def say_replayed(found: Replayed) -> None:
    """What a dry run has found."""
    if not (found.events or found.missing):
        out.print(f"[bold]{found.flow}[/]: no event that it wants is kept from that time.")
        return
    failed = f", {found.failed} failed" if found.failed else ""
    out.print(
        f"[bold]{found.flow}[/] on records {found.first} to {found.last}: {count(found.events, 'event')}{failed}.\n"
        f"Effects: {found.same} the same, {found.changed} changed, {found.new} new, {found.missing} missing."
    )
    for fault in found.faults:
        out.print(f"  [red]failed[/]   {escaped(fault.event)}: {escaped(fault.detail)}")
    for difference in found.differences:
        if difference.index >= 0 or difference.what == "missing":  # a new failure was told already
            out.print(_sentence(difference))
    if not found.complete:
        out.print("There is more: raise --limit, or begin later.")


def _sentence(found: Difference) -> str:
    before, now = (escaped(msgspec.json.encode(value).decode()) for value in (found.before, found.now))
    what = {"changed": f"{before} -> {now}", "new": now, "missing": before}[found.what]
    return f"  {found.what:8} {escaped(found.event)} #{found.index}: {what}"
