"""`edge demo`: the whole loop on this machine, to watch or to count."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live

from cloud_bridge.local_cloud import received
from edge_runtime.cli.console import AsJson, err, out, print_json
from edge_runtime.cli.progress import guest_progress
from edge_runtime.cli.view import Picture
from edge_runtime.demo.account import Account, account, since
from edge_runtime.demo.site import BOARDS, Site
from edge_runtime.errors import EdgeError
from edge_runtime.planes.client import NotRunning
from hil.journal import BoardJournal

FOLDER = Path("edge-demo")
PERIOD_MS = 500
FAST_PERIOD_MS = 50
"""Between two readings of a board when events are counted and nobody watches."""
COLD_STARTS = 20
RESTOCK_SECONDS = 0.05
"""Between two cold starts: the executor keeps virgin instances in stock, and makes a new one in about 5 ms."""
SETTLE_SECONDS = 90.0
"""For the last event to have gone round; a command expires after 60."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    events: Annotated[int, typer.Option(min=0, help="Stop after so many events have gone round; 0: at Ctrl-C.")] = 0,
    as_json: AsJson = False,
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its data.")] = FOLDER,
) -> None:
    """Two MicroPython boards, a gateway, a function that cools their greenhouse, and a cloud function, all real."""
    if events or as_json:
        found = asyncio.run(_count(folder, events or 50))
        if as_json:
            print_json(found)
        else:
            _show(found)
        raise typer.Exit(0 if found.good else 1)
    asyncio.run(_watch(folder))


def _say(text: str) -> None:
    err.print(f"[dim]{text} ...[/]")


@contextlib.contextmanager
def _stoppable() -> Iterator[asyncio.Event]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    yield stop


async def _watch(folder: Path) -> None:
    with _stoppable() as stop:
        site = Site(folder)
        picture = Picture("climate", "temperature")
        feeding: asyncio.Future[None] | None = None
        try:
            with guest_progress() as progress:
                await _unless(stop, site.start(_say, progress))
            if not stop.is_set():
                # The way in which it was called, which works in a second terminal too: `edge` may not be on the path.
                edge = sys.argv[0] if Path(sys.argv[0]).name == "edge" else "edge"
                out.print(
                    f"The function is [bold]{site.app}[/]. Edit it and put it live with:\n"
                    f"  {edge} deploy --config {site.config} {site.app}\nCtrl-C ends everything.\n"
                )
                feeding = asyncio.ensure_future(asyncio.to_thread(_feed, site, picture))
                await site.start_boards(period_ms=PERIOD_MS)
                await _draw(site, picture, stop)
        finally:
            _say("stopping")
            await site.stop()
            if feeding is not None:
                await feeding
    out.print(f"Everything has ended; the data stays in {site.folder}, and the next demo goes on from there.")


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do the work, unless it is stopped before its end."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return
    task.result()


def _feed(site: Site, picture: Picture) -> None:
    """Take the journal's lines into the picture until the gateway ends."""
    with contextlib.suppress(NotRunning):
        for line in site.client.tail(None, follow=True):
            picture.line(line)


async def _draw(site: Site, picture: Picture, stop: asyncio.Event) -> None:
    with Live(console=out, auto_refresh=False, transient=False) as live:
        while not stop.is_set():
            try:
                picture.status(await site.status())
            except NotRunning as error:
                raise EdgeError("the gateway has ended", hint=f"See {site.folder / 'gateway.log'}.") from error
            live.update(picture.draw(), refresh=True)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)


async def _count(folder: Path, events: int) -> Account:
    readings = -(-events // len(BOARDS))
    with _stoppable() as stop:
        site = Site(folder)
        try:
            with guest_progress() as progress:
                await _unless(stop, site.start(_say, progress))
            before = await site.status()
            cloud_before = len(received(site.cloud_journal))
            journals_before = site.journals()
            await site.start_boards(period_ms=FAST_PERIOD_MS, readings=readings)
            _say(f"{events} events go round")
            await _settled(site, stop, journals_before, readings)
            status = await site.status()
            calls = status.calls - before.calls
            files = {site.app.name: site.app.read_bytes()}
            cold_starts = []
            for _ in range(COLD_STARTS):
                cold_starts.append((await asyncio.to_thread(site.client.deploy, files, check=True)).cold_start)
                await asyncio.sleep(RESTOCK_SECONDS)
            lines = await asyncio.to_thread(lambda: list(site.client.tail(before.head, follow=False)))
            boards = [since(board.journal(), journals_before[board.device]) for board in site.boards]
            return account(boards, lines, received(site.cloud_journal)[cloud_before:], cold_starts, calls)
        finally:
            await site.stop()


async def _settled(site: Site, stop: asyncio.Event, before: dict[str, BoardJournal], readings: int) -> None:
    """Return when all readings are acknowledged, all flows have caught up and no command is under way."""
    limit = SETTLE_SECONDS + readings * FAST_PERIOD_MS / 1e3 * 2
    try:
        async with asyncio.timeout(limit):
            while not stop.is_set():
                status = await site.status()
                quiet = status.outbox == 0 and all(row.lag == 0 and not row.waiting for row in status.flows)
                if quiet and all(
                    len(since(board.journal(), before[board.device]).acknowledged) >= readings for board in site.boards
                ):
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        # The account names what is missing: that says more than the time it took.
        return
    raise EdgeError("the demo was stopped before it had counted its events")


def _show(found: Account) -> None:
    out.print(
        f"{found.published} events published, {found.acknowledged} acknowledged, {found.logged} in the journal,"
        f" {found.cloud_received} in the cloud ({found.cloud_duplicates} repeats);"
        f" {found.commands_issued} commands, {found.commands_received_by_boards} carried out"
    )
    for what, value in (
        ("publish -> PUBACK", found.publish_to_puback_ms),
        ("publish -> command", found.publish_to_command_ms),
        ("cold start", found.cold_start_ms),
    ):
        out.print(f"{what:20} p50 {value.p50:.2f} ms, p99 {value.p99:.2f} ms ({value.samples} samples)")
    if found.doubled:
        err.print(f"[bold red]twice[/]: {', '.join(found.doubled)}")
    for where, ids in found.missing.items():
        err.print(f"[bold red]missing[/] ({where}): {', '.join(ids)}")
