"""The journal writer process: the only one that has the database open. Started by the client; serves one socket."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from pathlib import Path

import msgspec

from edge_runtime.errors import StorageError, StorageFull
from edge_runtime.journal.sqlite.messages import (
    LENGTH,
    Batches,
    Close,
    Failed,
    Read,
    ReadTables,
    Reply,
    Request,
    TablesReply,
    Write,
    Written,
    frame,
)
from edge_runtime.journal.sqlite.store import FsyncFailed, Store

IDLE_SECONDS = 0.2
"""A pause this long is taken as nobody waiting: time to copy the write-ahead log back."""
EXIT_FSYNC_FAILED = 70

_decode = msgspec.msgpack.Decoder(Request).decode
_encode = msgspec.msgpack.Encoder().encode


def serve(store: Store, connection: socket.socket) -> None:
    """Answer requests in order until Close or the end of the connection."""
    buffer = bytearray()
    while True:
        if not select.select([connection], [], [], IDLE_SECONDS)[0]:
            store.maintain(idle=True)
            select.select([connection], [], [])
        data = connection.recv(1 << 20)
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
            connection.sendall(frame(_encode(answer(store, request))))
            store.maintain(idle=False)


def answer(store: Store, request: Request) -> Reply:
    """One request's reply; errors of the storage become replies, a failed fsync ends the process."""
    try:
        match request:
            case Write(ops):
                return Written(store.write(ops))
            case Read(after, limit):
                return Batches(store.read(after, limit))
            case ReadTables():
                return TablesReply(store.tables())
            case Close():
                raise AssertionError("Close has no reply")
    except StorageError as error:
        return Failed(str(error), error.hint, isinstance(error, StorageFull))


def main() -> None:
    """`python -m edge_runtime.journal.sqlite.writer FD MAX_BYTES PATH`."""
    # The daemon decides when to stop; a Ctrl-C in its terminal reaches this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    try:
        store = Store(Path(sys.argv[3]), int(sys.argv[2]))
    except StorageError as error:
        connection.sendall(frame(_encode(Failed(str(error), error.hint, isinstance(error, StorageFull)))))
        sys.exit(1)
    try:
        connection.sendall(frame(_encode(TablesReply(store.tables()))))
        serve(store, connection)
        store.close()
    except FsyncFailed as error:
        print(
            f"edge journal: the disk failed to make data durable ({error}); restart to recover",
            file=sys.stderr,
        )
        sys.stderr.flush()
        os._exit(EXIT_FSYNC_FAILED)
    except (BrokenPipeError, ConnectionResetError):
        store.close()


if __name__ == "__main__":
    main()
