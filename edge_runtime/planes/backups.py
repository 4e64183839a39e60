"""Backups of a gateway: its journal, online and consistent, its apps' versions and its releases, in one folder."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import msgspec

from edge_runtime.errors import EdgeError, StorageError
from edge_runtime.journal.sqlite import backup as files
from edge_runtime.journal.sqlite import damage
from edge_runtime.journal.sqlite.client import SqliteJournal
from edge_runtime.journal.sqlite.damage import Report

JOURNAL = "journal.db"
APPS = "apps"
RELEASES = "releases"


class Saved(msgspec.Struct, frozen=True):
    """What a backup holds, or what was restored from one. Every record was read again and checked."""

    folder: str
    records: int
    bytes: int
    """Of the journal."""


async def backup(journal: SqliteJournal, data: Path, to: Path) -> Saved:
    """Back a running gateway up into the new folder `to`; commits go on between the steps. Raises EdgeError."""
    _make(to)
    try:
        done = await journal.backup(to / JOURNAL)
        # After the journal: every version that it names was stored before it was named, and versions never change.
        await asyncio.to_thread(_copy_files, data, to)
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        raise
    return Saved(str(to), done.records, done.bytes)


def backup_stopped(data: Path, to: Path) -> Saved:
    """The same of a gateway that does not run. Raises EdgeError."""
    if not (data / JOURNAL).exists():
        raise StorageError(f"there is no journal in {data}", hint="Name the right configuration with --config.")
    _make(to)
    try:
        done = files.backup(data / JOURNAL, to / JOURNAL)
        _copy_files(data, to)
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        raise
    return Saved(str(to), done.records, done.bytes)


def restore(source: Path, data: Path) -> Saved:
    """Make the data folder of a gateway from a backup; one that holds a journal already is not touched."""
    if not (source / JOURNAL).exists():
        raise StorageError(f"{source} is not a backup: it holds no {JOURNAL}", hint="Name the folder of 'edge backup'.")
    if (data / APPS).exists():
        raise StorageError(f"{data} holds a gateway already", hint="Move it away first; nothing was touched.")
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = files.restore(source / JOURNAL, data / JOURNAL)
    _copy_files(source, data)
    return Saved(str(data), done.records, done.bytes)


def salvage(data: Path, to: Path, now: int) -> Report:
    """Save all that can still be read of a damaged gateway into the new folder `to`; `data` is not changed.

    Returns what was found damaged. What was lost stands in the saved journal as gaps, dated `now`. Raises EdgeError.
    """
    _make(to)
    try:
        report = damage.salvage(data / JOURNAL, to / JOURNAL, now)
        _copy_files(data, to)
    except BaseException:
        shutil.rmtree(to, ignore_errors=True)
        raise
    return report


def _make(to: Path) -> None:
    try:
        to.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise EdgeError(f"{to} is there already", hint="Name a new folder; nothing was touched.") from None
    except OSError as error:
        raise EdgeError(
            f"{to} cannot be made: {error.strerror}", hint="Name a folder that the gateway's user can make."
        ) from error


def _unfinished(folder: str, names: list[str]) -> list[str]:
    """Versions that are just being written or removed, beside the others of an app; and the key that signs releases:
    a backup lets nobody sign.
    """
    if RELEASES in Path(folder).parts[-2:]:
        return [name for name in names if name == "key.pem" or name.endswith(".new")]
    return [name for name in names if name.startswith(".")] if Path(folder).parent.name == APPS else []


def _copy_files(source: Path, to: Path) -> None:
    try:
        for name in (APPS, RELEASES):
            if (source / name).exists():
                shutil.copytree(source / name, to / name, ignore=_unfinished)
    except (OSError, shutil.Error) as error:
        raise StorageError(
            f"the apps and releases could not be copied to {to}: {error}", hint="Check the room on that disk."
        ) from error
