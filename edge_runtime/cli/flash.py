"""`edge flash`: one command from a blank board to its first event in the journal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from devices.boards import BOARDS, Board, EspFlash, named, of_machine
from devices.flash import images, plan
from devices.flash.choose import Bench
from devices.flash.errors import FlashError
from devices.flash.ports import Found as Attached
from devices.flash.ports import check, find, is_pseudo_terminal
from devices.flash.prompt import Found, Prompt
from edge_runtime import config
from edge_runtime.cli.console import CONFIG, AsJson, ConfigPath, count, err, escaped, out, print_json
from edge_runtime.cli.flash_settings import Given, key_for, place, read_key, values, wifi
from edge_runtime.cli.flash_wait import Ear, first_event
from edge_runtime.cli.ports import lent
from edge_runtime.cli.progress import Steps
from edge_runtime.errors import EdgeError
from edge_runtime.planes.client import Client, NotRunning


class Flashed(msgspec.Struct):
    """What `edge flash` has done."""

    device: str
    board: str
    port: str
    image: str = ""
    """The image that was written; empty where the board had its MicroPython already."""
    digest: str = ""
    """Its SHA-256."""
    written: list[str] = []
    """Files that were written; those that were on the board already are not among them."""
    key: str = ""
    """Where its key is from; never the key."""
    event: str = ""
    """The id of its first event; empty where none was waited for."""
    seconds: float = 0.0
    """From its start to that."""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(flash)


def flash(
    device: Annotated[str, typer.Argument(help="The device's id; without it, what is connected is shown.")] = "",
    program: Annotated[
        Path | None, typer.Argument(metavar="FILE|FOLDER", help="The program: a file, or a folder with a main.py.")
    ] = None,
    port: Annotated[Path | None, typer.Option(help="Its serial port, where several boards are connected.")] = None,
    drive: Annotated[Path | None, typer.Option(help="Where the drive of an RP2040 is mounted.")] = None,
    board: Annotated[str, typer.Option(help=f"Its profile: {', '.join(BOARDS)}.")] = "",
    image: Annotated[
        Path | None, typer.Option(help="MicroPython's image; else the newest one in the cache, if it needs one.")
    ] = None,
    erase: Annotated[bool, typer.Option("--erase", help="Write MicroPython anew, and erase all files.")] = False,
    link: Annotated[str, typer.Option(help="How it sends: mqtt, coap or serial.")] = "mqtt",
    host: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="The gateway, as the board sees it.")] = "",
    tls: Annotated[
        bool | None,
        typer.Option("--tls/--no-tls", help="Over TLS, with the gateway's own CA; by default where it has one."),
    ] = None,
    hs256: Annotated[
        bool, typer.Option("--hs256", help="Its key is a secret with which it signs JWTs: it never shows it.")
    ] = False,
    ssid: Annotated[
        str, typer.Option("--wifi", metavar="SSID", help="Its Wi-Fi; the password is asked for, or EDGE_WIFI_PASSWORD.")
    ] = "",
    options: Annotated[
        list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="For the firmware; repeatable.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--setting", metavar="NAME=VALUE", help="For the program; repeatable.")
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="A file with the key it is to have; -: ask.")] = None,
    new_key: Annotated[bool, typer.Option("--new-key", help="Give it another key than it has.")] = False,
    wait: Annotated[float, typer.Option(help="Seconds to wait for its first event; 0 not to.")] = 60,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config_path: ConfigPath = CONFIG,
    as_json: AsJson = False,
) -> None:
    """Put MicroPython, the firmware and a program on a board, register it, and wait for its first event.

    Giving the same command again goes on from where it was: what stands on the board already is not written again.
    """
    if not device:
        _show(find(), as_json)
        return
    if program is None:
        raise EdgeError("the program is missing", hint=f"Such as: edge flash {device} board/")
    code = plan.program(program)
    profile = named(board) if board else None
    if hs256 and link != "mqtt":
        raise EdgeError(f"--hs256 is for MQTT, not for {link}", hint="Leave it out.")
    gateway = config.load(config_path)
    given_key = read_key(key) if key is not None else ""
    with Client(gateway.socket) as client, ExitStack() as lease:
        try:
            status = client.status()
        except NotRunning as error:
            if not given_key or wait:
                hint = "Start it with 'edge run'. Without it: --key FILE --host HOST:PORT --wait 0."
                raise FlashError(str(error), hint=hint) from None
            status = None
        bench = Bench(_chosen(port, drive, yes), port)
        if bench.port is not None and bench.drive is None:
            if status is not None:
                lease.enter_context(lent(client, bench.port))
            check(bench.port)
        virtual = bench.port is not None and is_pseudo_terminal(bench.port)
        there = place(link, host, status, gateway, tls=tls, virtual=virtual)
        form = {**there.form, **values(options or [], "an option")}
        own = values(settings or [], "a setting") | ({"wifi": wifi(ssid)} if ssid else {})
        files = plan.files(code, wifi=bool(ssid), more=there.files)
        with Steps() as steps:
            prompt, found, done = _micropython(bench, profile, image, erase, yes, steps.show)
            done.device = device
            paths = [plan.SETTINGS, *(file.path for file in files), *plan.STALE]
            found = prompt.look(paths)
            _check_owner(found, device, files[-1].digest, yes or erase)
            # The settings are written when all else is there: a board is somebody only once it can be.
            done.written = prompt.copy(
                files, found, lambda path, part: steps.show("Files", part, path), stale=plan.STALE
            )
            tags = {"board": done.board} | ({"usb": bench.number[:64]} if bench.number else {})
            if given_key:
                made = Given(given_key, "the key is the one given", hs256)
            else:
                made = key_for(client, device, found.config, tags, anew=new_key, hs256=hs256)
            done.key = made.how
            form = {"device": device, **made.entries(gateway.gateway.name), **form, "settings": own}
            done.written += prompt.copy([plan.settings_file(form)], prompt.look([plan.SETTINGS]))
            before = client.status() if status is not None else None
            prompt.reset()
            if link == "serial":
                lease.close()  # the port is the gateway's from now on
            if wait and before is not None:
                with Ear(None if link == "serial" else bench.port) as ear:
                    ear.listen()
                    steps.show("First event", None)
                    first = first_event(client, device, before, wait, ear)
                done.event, done.seconds = first.line.id, round(first.seconds, 2)
    if as_json:
        print_json(done)
    else:
        _say(done)


def _micropython(
    bench: Bench,
    profile: Board | None,
    image: Path | None,
    erase: bool,
    yes: bool,
    show: Callable[[str, float | None], None],
) -> tuple[Prompt, Found, Flashed]:
    """Have MicroPython answer at the board's prompt, and write it where that needs to be."""
    show("Looking for MicroPython", None)
    # With the profile known and everything to be erased, there is nothing that could be asked.
    blank = erase and profile is not None and isinstance(profile.flash, EspFlash)
    found = None if blank else bench.running()
    if found is None and bench.drive is None and not (erase or yes):
        _check_blank(bench)
    seen = of_machine(found.platform, found.machine) if found is not None else None
    if profile is not None or seen is not None or found is None or erase or image is not None:
        profile = bench.profile(profile, seen)
    loaded = images.read(image, profile) if image is not None and profile is not None else None
    # A board without a profile that has MicroPython already needs none.
    name = profile.name if profile is not None else found.platform if found is not None else ""
    done = Flashed("", name, str(bench.port or bench.drive))
    if profile is not None and (erase or found is None or (loaded is not None and not loaded.is_build(found.build))):
        loaded = loaded or images.read(images.cached(profile, images.cache_folder()), profile)
        done.image, done.digest = str(loaded.path), loaded.digest
        err.print(f"{escaped(loaded.path.name)}: SHA-256 {loaded.digest}")
        # Whatever a blank ESP chip holds would keep MicroPython from making its file system.
        everything = erase or (found is None and isinstance(profile.flash, EspFlash))
        bench.write(profile, loaded, lambda part: show("MicroPython", part), erase=everything)
        show("Waiting for MicroPython", None)
        found = bench.answers(profile)
    assert found is not None
    port = bench.port
    assert port is not None
    done.port = str(port)
    return Prompt(port), found, done


def _check_blank(bench: Bench) -> None:
    """Ask before a board that does not answer is taken for a blank one: it may be busy, or no board of ours at all."""
    what = f"no MicroPython answers at {bench.port}"
    if not sys.stdin.isatty():
        raise FlashError(
            what, hint="If the board is blank, or may be made so, say --erase: everything on it is erased."
        )
    if not typer.confirm(f"N{what[1:]}. Erase all that is on it, and write MicroPython?"):
        raise typer.Exit(1)


def _check_owner(found: Found, device: str, ours: str, yes: bool) -> None:
    """Ask before a board that is something else becomes this device. `ours` is the digest of our `/main.py`."""
    held = found.config.get("device")
    if yes or held == device:
        return
    if held is not None:
        what = f"this board is '{held}'"
    elif found.digests.get(plan.MAIN, ours) != ours:
        what = "this board has a program of its own (/main.py)"
    else:
        return
    if not sys.stdin.isatty():
        raise FlashError(what, hint=f"If it is to become '{device}', say so with --yes.")
    if not typer.confirm(f"T{what[1:]}. Make it '{device}'?"):
        raise typer.Exit(1)


def _chosen(port: Path | None, drive: Path | None, yes: bool) -> Attached:
    """The board that is meant. Raises FlashError."""
    if drive is not None:
        return Attached(drive, (), drive=True)
    attached = find()
    if port is not None:
        real = os.path.realpath(port)
        return next((each for each in attached if os.path.realpath(each.where) == real), Attached(port, ()))
    if not attached:
        raise FlashError(
            "no board is connected",
            hint="Plug one in (a Pico without MicroPython: with BOOTSEL held). Some cables carry power alone."
            " Or name its --port.",
        )
    if len(attached) == 1:
        return attached[0]
    lines = "\n".join(f"  {number}. {each.line}" for number, each in enumerate(attached, 1))
    if not sys.stdin.isatty() or yes:
        raise FlashError(f"{len(attached)} boards are connected:\n{lines}", hint="Name one with --port (or --drive).")
    err.print(escaped(lines))
    number = int(typer.prompt("Which one", type=int))
    if not 1 <= number <= len(attached):
        raise FlashError(f"there is no board {number}")
    return attached[number - 1]


def _show(attached: list[Attached], as_json: bool) -> None:
    if as_json:
        print_json([{"where": str(e.where), "boards": [b.name for b in e.boards], "usb": e.usb} for e in attached])
    elif attached:
        for each in attached:
            out.print(escaped(each.line))
    else:
        out.print("No board is connected. One that is does not show? See docs/flashing.md.")


def _say(done: Flashed) -> None:
    if done.image:
        out.print(f"MicroPython is on the {BOARDS[done.board].title} ({escaped(done.port)}).")
    wrote = count(len(done.written), "file") if done.written else "No file was different: none"
    out.print(f"{wrote} written; {escaped(done.key)}.")
    if done.event:
        first = f"The first event of [bold]{escaped(done.device)}[/] came after {done.seconds:.1f} s"
        out.print(f"[green]{first}:[/] {done.event}")
    else:
        out.print(f"{escaped(done.device)} has started.")
