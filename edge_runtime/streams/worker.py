"""The stream worker process: runs the computations of all streams, so that they hold up nobody. Serves one socket.

It is started with the first stream that has something to do and knows no journal: state comes with the requests that
need it, and goes with the answers.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import sys
import traceback

import msgspec

from edge_runtime.streams.messages import (
    LENGTH,
    MAX_FRAME,
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
    Took,
    Unfolded,
    encode,
    frame,
)
from edge_runtime.streams.session import KEPT, Answer, Session, Taking

ANSWERED = (Take, Load, Put, Dump)
"""Requests that have an answer."""

_decode = msgspec.msgpack.Decoder(Request).decode


class Worker:
    """Answers requests. No input or output."""

    def __init__(self, memory: int = KEPT) -> None:
        """`memory`: bytes that the state of all sessions may take."""
        self._memory = memory
        self._sessions: dict[int, Session] = {}
        self._taking: dict[int, Taking] = {}
        self._tags: dict[str, dict[str, str]] = {}
        self._failed: dict[int, Failed] = {}
        """What went wrong in sessions that were not closed yet."""

    def answer(self, request: Request) -> Reply | None:
        """Do what is asked; None where nothing is answered."""
        try:
            return self._answer(request)
        except Exception:
            # A defect of ours in one computation must not end the others.
            self._close(request.session)
            self._failed[request.session] = failed = Failed(traceback.format_exc()[-2000:], isinstance(request, Open))
            return failed if isinstance(request, ANSWERED) else None

    def _answer(self, request: Request) -> Reply | None:
        number = request.session
        match request:
            case Open(stream=stream):
                self._sessions[number] = Session(stream, lambda device: self._tags.get(device, {}))
                return None
            case Close():
                self._close(number)
                return None
        session = self._sessions.get(number)
        if session is None:
            none = Failed("there is no such session", opening=True)
            return None if isinstance(request, Shrink) else self._failed.get(number, none)
        match request:
            case Take(events=events, tags=tags):
                self._tags = tags
                self._taking[number] = session.take(events)
                return self._go_on(number, None)
            case Load(state=state):
                return self._go_on(number, state)
            case Put(answers=answers):
                return self._go_on(number, answers)
            case Dump():
                return Dumped(session.dump())
            case _:
                session.shrink(self._memory // len(self._sessions))
                return None

    def _close(self, number: int) -> None:
        self._failed.pop(number, None)
        self._sessions.pop(number, None)
        self._taking.pop(number, None)

    def _go_on(self, number: int, answer: Answer | None) -> Reply:
        taking = self._taking[number]
        try:
            needs = next(taking) if answer is None else taking.send(answer)
            return Missing(needs) if isinstance(needs[0], str) else Unfolded(needs)
        except StopIteration as ended:
            del self._taking[number]
            return Took(ended.value)


def serve(connection: socket.socket, memory: int) -> None:
    """Serve requests until the other side closes."""
    worker = Worker(memory)
    source = connection.makefile("rb")
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        [length] = LENGTH.unpack(head)
        if length > MAX_FRAME:
            return
        body = source.read(length)
        if len(body) < length:
            return
        reply = worker.answer(_decode(body))
        if reply is not None:
            connection.sendall(frame(_encoded(reply)))


def _encoded(reply: Reply) -> bytes:
    try:
        return encode(reply)
    except Exception:  # a result that cannot be told, such as an integer beyond 64 bits
        return encode(Failed(traceback.format_exc()[-2000:]))


def main() -> None:
    """Serve the socket whose file descriptor is the first argument; the second says how many bytes state may take."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The daemon ends us, in its own time.
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)  # State is many objects that live long: looking at all of them often costs much.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # The daemon has gone.
        serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))


if __name__ == "__main__":
    main()
