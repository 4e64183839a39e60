"""A stream worker in this process, which can be made to die: for tests of flows in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import msgspec

from edge_runtime.events import Event
from edge_runtime.flows.flow import StateLost
from edge_runtime.streams.client import Fetch, Folder, StreamWorker
from edge_runtime.streams.messages import (
    Close,
    Dump,
    Dumped,
    Failed,
    Load,
    Missing,
    Open,
    Put,
    Reply,
    Request,
    Shrink,
    Take,
    Taken,
    Took,
    Unfolded,
    encode,
)
from edge_runtime.streams.worker import Worker
from edge_runtime.streamspec import Stream


class LocalWorker:
    """Has the face of `StreamWorker`. Messages are encoded and decoded as on the way to the process."""

    def __init__(self) -> None:
        self.worker = Worker()
        self.failures: list[str] = []
        self._numbers = itertools.count(1)

    def as_worker(self) -> StreamWorker:
        return cast(StreamWorker, self)

    def die(self) -> None:
        """Everything that it holds is gone."""
        self.worker = Worker()

    async def open(self, stream: Stream) -> LocalSession:
        session = LocalSession(self, self.worker, next(self._numbers))
        session.send(Open(session.number, stream))
        return session


class LocalSession:
    def __init__(self, house: LocalWorker, worker: Worker, number: int) -> None:
        self._house = house
        self._worker = worker
        self.number = number

    def send(self, request: Request) -> Reply | None:
        if self._house.worker is not self._worker:
            raise StateLost
        reply = self._worker.answer(msgspec.msgpack.decode(encode(request), type=Request))
        if isinstance(reply, Failed):
            self._house.failures.append(reply.error)
            raise StateLost("" if reply.opening else reply.error)
        return None if reply is None else msgspec.msgpack.decode(encode(reply), type=Reply)

    async def take(self, events: Sequence[Event], tags: dict[str, dict[str, str]], fetch: Fetch, fold: Folder) -> Taken:
        reply = self.send(Take(self.number, list(events), tags))
        while isinstance(reply, Missing | Unfolded):
            if isinstance(reply, Missing):
                reply = self.send(Load(self.number, dict(await fetch(reply.names))))
            else:
                reply = self.send(Put(self.number, await fold(reply.folds)))
        assert isinstance(reply, Took), reply
        return reply.taken

    async def dump(self) -> dict[str, bytes | None]:
        reply = self.send(Dump(self.number))
        assert isinstance(reply, Dumped), reply
        return reply.state

    def shrink(self) -> None:
        if self._house.worker is self._worker:
            self.send(Shrink(self.number))

    def close(self) -> None:
        if self._house.worker is self._worker:
            self.send(Close(self.number))
