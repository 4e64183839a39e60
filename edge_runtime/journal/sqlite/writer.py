"""The journal writer process: the only one that has the database open. Started by the client; serves one socket."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec

from edge_runtime.errors import StorageError, StorageFull
from edge_runtime.journal.sqlite.database import FsyncFailed
from edge_runtime.journal.sqlite.keeper import reserve_size
from edge_runtime.journal.sqlite.messages import (
    LENGTH,
    Announce,
    BackedUp,
    Backup,
    Batches,
    Close,
    Done,
    Failed,
    Read,
    ReadEntries,
    ReadStateKeys,
    ReadStates,
    ReadTables,
    Reply,
    Request,
    Settings,
    StateKeysReply,
    StatesReply,
    TablesReply,
    Tick,
    Ticked,
    Write,
    Written,
    frame,
)
from edge_runtime.journal.sqlite.reserve import Reserve
from edge_runtime.journal.sqlite.store import Store

IDLE_SECONDS = 0.2
"""A pause this long is taken as nobody waiting: time to copy the write-ahead log back."""
EXIT_FSYNC_FAILED = 70

_decode = msgspec.msgpack.Decoder(Request).decode
_encode = msgspec.msgpack.Encoder().encode


Question = Write | Read | ReadTables | ReadStates | ReadEntries | ReadStateKeys | Tick


class Server:
    """Serves one client, the daemon: its requests in order, and between them what nobody waits for."""

    def __init__(self, store: Store, connection: socket.socket) -> None:
        self._store = store
        self._connection = connection
        self._backup: Generator[BackedUp | None, None, None] | None = None

    def serve(self) -> None:
        """Answer requests until Close or the end of the connection."""
        buffer = bytearray()
        more = False
        while True:
            if not self._wait(0 if more else IDLE_SECONDS):
                more = self._upkeep(idle=True)
                if not more:
                    self._wait(None)
                continue
            data = self._connection.recv(1 << 20)
            if not data:
                return
            buffer += data
            while len(buffer) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(buffer)[0]
                if len(buffer) < end:
                    break
                request = _decode(bytes(buffer[LENGTH.size : end]))
                del buffer[:end]
                if isinstance(request, Close):
                    return
                self._handle(request)
                more = self._upkeep(idle=False)

    def close(self) -> None:
        """Give up what is not done."""
        if self._backup is not None:
            self._backup.close()

    def _wait(self, seconds: float | None) -> bool:
        return bool(select.select([self._connection], [], [], seconds)[0])

    def _handle(self, request: Question | Backup) -> None:
        if not isinstance(request, Backup):
            self._send(answer(self._store, request))
        elif self._backup is not None:
            self._send(BackedUp(0, 0, "another backup is being made", "Wait for it to end."))
        else:
            self._backup = self._store.backup(Path(request.to))

    def _upkeep(self, *, idle: bool) -> bool:
        """One turn of upkeep; true if there is reason for another."""
        more, stored = self._store.maintain(idle=idle)
        if stored:
            self._send(Announce(stored[0].offset, [item.record for item in stored]))
        if self._backup is not None:
            outcome = next(self._backup)
            if outcome is not None:
                self._backup = None
                self._send(outcome)
        return more or self._backup is not None

    def _send(self, reply: Reply) -> None:
        self._connection.sendall(frame(_encode(reply)))


def answer(store: Store, request: Question) -> Reply:
    """One request's reply; errors of the storage become replies, a failed fsync ends the process."""
    try:
        match request:
            case Write(ops):
                done = store.write(ops)
                return Written(done) if any(one.others or one.stale or one.full for one in done) else _plain(done)
            case Read(after, limit):
                return Batches(store.read(after, limit))
            case ReadTables():
                return TablesReply(store.tables())
            case ReadStates(flow, keys):
                return StatesReply(store.states(flow, keys))
            case ReadEntries(flow, names):
                return StatesReply(store.entries(flow, names))
            case ReadStateKeys(flow, after, limit):
                return StateKeysReply(store.state_keys(flow, after, limit))
            case Tick(now, monotonic, trusted):
                return Ticked(store.tick(now, monotonic, trusted=trusted))
    except StorageError as error:
        return Failed(str(error), error.hint, isinstance(error, StorageFull))


def _plain(done: list[Done]) -> Written:
    return Written([], done[0].first) if done else Written([])


def run(opened: Callable[[], Store], connection: socket.socket) -> None:
    """Open the journal, say so, and serve until the end; a failed fsync ends the process there and then."""
    try:
        try:
            store = opened()
        except StorageError as error:
            connection.sendall(frame(_encode(Failed(str(error), error.hint, isinstance(error, StorageFull)))))
            sys.exit(1)
        _run(store, connection)
    except FsyncFailed as error:
        print(
            f"edge journal: the disk failed to make data durable ({error}); restart to recover",
            file=sys.stderr,
        )
        sys.stderr.flush()
        os._exit(EXIT_FSYNC_FAILED)


def _run(store: Store, connection: socket.socket) -> None:
    try:
        connection.sendall(frame(_encode(TablesReply(store.tables()))))
        with contextlib.closing(Server(store, connection)) as server:
            server.serve()
        store.close()
    except (BrokenPipeError, ConnectionResetError):
        store.close()


def main() -> None:
    """`python -m edge_runtime.journal.sqlite.writer FD SETTINGS PATH`, where SETTINGS is the JSON of `Settings`."""
    # The daemon decides when to stop; a Ctrl-C in its terminal reaches this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    settings = msgspec.json.decode(sys.argv[2], type=Settings)
    path = Path(sys.argv[3])
    size = reserve_size(settings.max_bytes)
    reserve = Reserve(path.with_name(f"{path.name}-reserve"), size) if size else None
    run(lambda: Store(path, settings.max_bytes, settings.retention, reserve=reserve), connection)


if __name__ == "__main__":
    main()
