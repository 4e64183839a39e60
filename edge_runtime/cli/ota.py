"""`edge ota ...`: releases, roll-outs, and what the devices run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from devices import release_keys, releases
from devices.boards import BOARDS
from devices.flash import plan
from devices.release_store import Package, new_package
from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, ago, count, err, escaped, out, print_json, table
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError
from edge_runtime.planes.client import connect
from edge_runtime.planes.fleet import SHOWN, ReleaseRow, RollOut, RolloutRow

Name = Annotated[str, typer.Argument(help="A release's name, or the beginning of its id.")]
Version = Annotated[str, typer.Argument(help="Its version; without one, the newest.")]
Number = Annotated[int, typer.Argument(help="A roll-out's number; without one, the newest.")]
FIRMWARE = "lib/edge_device/"
MAX_FILE = 8 << 20


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="Give boards a new version over the air.", no_args_is_help=True)
    group.command()(release)
    group.command("list")(list_)
    group.command()(show)
    group.command("export")(export)
    group.command("import")(import_)
    group.command()(remove)
    group.command()(trust)
    group.command()(keys)
    group.command("roll-out")(roll_out)
    for verb in (status, pause, resume, abort, fleet):
        group.command()(verb)
    app.add_typer(group, name="ota")


def release(
    program: Annotated[Path, typer.Argument(help="A folder with main.py, and what it imports in lib/; or one file.")],
    name: Annotated[str, typer.Option(help="What it is called.")],
    version: Annotated[str, typer.Option(help="Which version of that it is.")],
    boards: Annotated[
        list[str] | None,
        typer.Option("--board", help=f"{', '.join(BOARDS)}, or a sys.platform; repeatable; none: all."),
    ] = None,
    micropython: Annotated[str, typer.Option(help="The least version of MicroPython.")] = "",
    health: Annotated[int, typer.Option(help="Seconds in which it has to prove itself on a board.")] = releases.HEALTH,
    proof: Annotated[str, typer.Option(help="By what: report, or event (a stored reading besides).")] = releases.REPORT,
    firmware: Annotated[
        bool, typer.Option(help="Add edge_device, as edge flash does, where it is not in lib/ already.")
    ] = True,
    key: Annotated[
        Path | None, typer.Option(help="Your private key (PEM), to sign it with, not the gateway's.")
    ] = None,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Make a release of a program: a signed manifest, and files that boards fetch by their hash."""
    files = plan.program(program)
    if firmware and not any(path.startswith(FIRMWARE) for path in files):
        package = plan.firmware_folder() / "edge_device"
        files |= {FIRMWARE + path.name: path.read_bytes() for path in sorted(package.glob("*.py"))}
    # A board knows its platform alone: a Pico is an rp2, with Wi-Fi or without.
    platforms = list(dict.fromkeys(BOARDS[each].family if each in BOARDS else each for each in boards or []))
    manifest = releases.manifest_of(
        name, version, files, boards=platforms, micropython=micropython, health=health, proof=proof
    )
    made = new_package(files, manifest)
    if key is not None:
        private = release_keys.read_private(_bytes(key), str(key))
        made.signature, made.key = release_keys.sign(private, made.manifest)
    with connect(config_path) as client:
        row = client.add_release(made)
    if as_json:
        print_json(row)
        return
    _say(row)
    if not any(path.startswith(FIRMWARE) for path in files):
        err.print(
            "It does not hold edge_device, which the boards must have in /lib or frozen: what is in their other slot "
            "is not there for this one."
        )


def _say(row: ReleaseRow) -> None:
    size = f"{count(len(row.files), 'file')}, {row.size / 1024:.1f} KiB"
    out.print(f"[bold]{escaped(row.name)} {escaped(row.version)}[/] ({row.id[:SHOWN]}): {size}, signed by {row.signer}")


def list_(config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show the releases that this gateway has."""
    with connect(config_path) as client:
        rows = client.releases()
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    found = table("release", "id", "files", "KiB", "boards", "signed by", "taken in", "running")
    for row in rows:
        found.add_row(
            escaped(f"{row.name} {row.version}"),
            row.id[:SHOWN],
            str(len(row.files)),
            f"{row.size / 1024:.1f}",
            " ".join(row.boards) or "all",
            row.signer,
            f"{ago(row.taken, now)} ago",
            str(row.running),
        )
    out.print(found if rows else "No releases yet. Make one: edge ota release PROGRAM --name NAME --version VERSION")


def show(name: Name, version: Version = "", config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show what is in a release."""
    with connect(config_path) as client:
        rows = client.releases()
        identity = releases.digest_of(client.release_package(name, version).manifest)
    row = next(row for row in rows if row.id == identity)
    if as_json:
        print_json(row)
        return
    _say(row)
    needs = f", MicroPython {row.micropython} or later" if row.micropython else ""
    out.print(f"For {' '.join(row.boards) or 'all boards'}{needs}; proves itself in {row.health} s by {row.proof}.")
    found = table("file", "bytes", "SHA-256")
    for file in row.files:
        found.add_row(escaped(file.path), str(file.size), file.digest[:SHOWN])
    out.print(found)


def export(
    name: Name,
    version: Version,
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Write a release with its signature into a file, for another gateway."""
    with connect(config_path) as client:
        package = client.release_package(name, version)
    try:
        file.write_bytes(msgspec.json.encode(package))
    except OSError as error:
        raise EdgeError(f"{file} cannot be written: {error.strerror}") from None
    size = file.stat().st_size
    if as_json:
        print_json({"file": str(file), "bytes": size})
    else:
        out.print(f"{escaped(str(file))}: {size / 1024:.1f} KiB. There: edge ota import {escaped(file.name)}")


def import_(
    file: Annotated[Path, typer.Argument(help="What `edge ota export` has written.")],
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Take in a release that was made elsewhere, if somebody has signed it whom this gateway trusts."""
    try:
        package = msgspec.json.decode(_bytes(file), type=Package)
    except msgspec.MsgspecError as error:
        raise EdgeError(f"{file} is not a release: {error}") from None
    if not package.signature:
        raise EdgeError(f"{file} is not signed", hint="Make it a release of yours: edge ota release PROGRAM")
    with connect(config_path) as client:
        made = client.add_release(package)
    if as_json:
        print_json(made)
    else:
        _say(made)


def remove(name: Name, version: Version, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Remove a release from this gateway; boards that run it go on doing so."""
    with connect(config_path) as client:
        rows = client.remove_release(name, version)
    if as_json:
        print_json(rows)
    else:
        out.print(f"{escaped(name)} {escaped(version)} is removed.")


def trust(
    key: Annotated[str, typer.Argument(help="A file with a public key (PEM), or with --remove a key's name.")],
    remove: Annotated[bool, typer.Option("--remove", help="Trust it no more.")] = False,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Take in releases signed with a key: that of another gateway, or of whoever makes them."""
    with connect(config_path) as client:
        rows = client.distrust_key(key) if remove else client.trust_key(_bytes(Path(key)).decode(errors="replace"))
    if as_json:
        print_json(rows)
    else:
        out.print(f"Trusted: {', '.join(row.name for row in rows)}.")


def keys(config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show whose releases this gateway takes in, and its own public key, for others."""
    with connect(config_path) as client:
        rows = client.release_keys()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        err.print(f"{row.name}{' (this gateway)' if row.own else ''}")
    out.out(next(row.pem for row in rows if row.own).strip())


def roll_out(
    name: Name,
    version: Version = "",
    devices: Annotated[list[str] | None, typer.Option("--device", help="A device; repeatable.")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="All with it.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All devices that can be updated.")] = False,
    first: Annotated[list[str] | None, typer.Option(help="A device of the first step; repeatable.")] = None,
    canary: Annotated[int, typer.Option(help="The first step in per cent; 10, or whom --first names.")] = 0,
    steps: Annotated[str, typer.Option(help="Those after it, in per cent of all: 25,50. Then all.")] = "",
    tolerate: Annotated[int, typer.Option(help="Devices that may fail before it pauses itself.")] = 0,
    soak: Annotated[float, typer.Option(help="Minutes that a step has to stand before the next.")] = 0,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Give devices a release: a few first, then more, as long as they come through it."""
    wanted = dict(text.partition("=")[::2] for text in tags or [])
    try:
        shares = [int(text) for text in steps.split(",") if text]
    except ValueError:
        raise EdgeError(f"'{steps}' are not shares in per cent", hint="Such as 25,50.") from None
    request = RollOut(
        name, version, devices or [], wanted, everyone, first or [], canary, shares, tolerate, round(soak * 60e6)
    )
    with connect(config_path) as client:
        row = client.roll_out(request)
    _answer(row, as_json)


def status(
    number: Annotated[int, typer.Argument(help="A roll-out's number; 0 for the newest.")] = -1,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show the roll-outs, or one with its devices and why they do not have it."""
    with connect(config_path) as client:
        if number >= 0:
            _answer(client.rollout(number), as_json)
            return
        rows = client.rollouts()
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    found = table("roll-out", "release", "begun", "state", "step", "devices")
    for row in rows:
        state = row.state + (f": {row.why}" if row.why else "")
        counts = ", ".join(f"{n} {stand}" for stand, n in row.counts.items())
        step = f"{row.step} of {len(row.steps)}"
        begun = f"{ago(row.created, now)} ago"
        found.add_row(str(row.number), escaped(f"{row.name} {row.version}"), begun, escaped(state), step, counts)
    out.print(found if rows else "No roll-outs yet. Begin one with: edge ota roll-out NAME VERSION --all")


def pause(number: Number = 0, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Have a roll-out stand still: nothing is offered, and boards stop fetching where they are."""
    _change(config_path, number, "pause", as_json)


def resume(
    number: Number = 0,
    go_on: Annotated[
        bool, typer.Option("--go-on", help="With its next step, though devices of this one are missing.")
    ] = False,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Have a roll-out go on; what has failed until now is forgiven."""
    with connect(config_path) as client:
        row = client.change_rollout(number, "resume", go_on=go_on)
    _answer(row, as_json)


def abort(number: Number = 0, config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """End a roll-out; devices that run the release already go on doing so."""
    _change(config_path, number, "abort", as_json)


def fleet(config_path: ConfigPath = CONFIG, as_json: AsJson = False) -> None:
    """Show what each device runs, and what has become of its last update."""
    with connect(config_path) as client:
        rows = client.fleet()
    if as_json:
        print_json(rows)
        return
    now = SystemClock().now()
    found = table("device", "runs", "update", "board", "said", "connected")
    for row in rows:
        update = row.state + (f": {row.detail}" if row.detail else "")
        said = f"{ago(row.reported, now)} ago" if row.reported else "never"
        found.add_row(
            row.device,
            escaped(row.runs),
            escaped(update),
            escaped(row.platform),
            said,
            "yes" if row.connected else "no",
        )
    out.print(found if rows else "No devices yet. Add one with: edge device add NAME")


def _change(config_path: Path, number: int, verb: str, as_json: bool) -> None:
    with connect(config_path) as client:
        row = client.change_rollout(number, verb)
    _answer(row, as_json)


def _answer(row: RolloutRow, as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    colour = {"done": "green", "running": "green", "paused": "yellow"}.get(row.state, "red")
    why = f" ({row.why})" if row.why else ""
    upto = row.steps[row.step - 1]
    out.print(
        f"Roll-out [bold]{row.number}[/] of {escaped(row.name)} {escaped(row.version)}: "
        f"[{colour}]{row.state}[/]{escaped(why)}, step {row.step} of {len(row.steps)} "
        f"({upto} of {count(len(row.members), 'device')})"
    )
    found = table("device", "stands", "connected", "")
    for member in row.members:
        detail = f"{member.done / 1024:.1f} of {member.total / 1024:.1f} KiB" if member.total else member.detail
        found.add_row(member.device, member.stand, "yes" if member.connected else "no", escaped(detail))
    out.print(found)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise EdgeError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise EdgeError(f"{path} is larger than {MAX_FILE >> 20} MiB")
    return data
