"""The process that forks native guests. It never sees an app or an event, so that what it forks inherits none."""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
from contextlib import suppress
from typing import NoReturn

from edge_runtime.functions.sandbox import jail
from edge_runtime.functions.sandbox.native import child, guest

_FORK, _END = b"f", b"e"
_NUMBER = struct.Struct("i")


class Zygote:
    """The zygote as its keeper sees it: who makes children for it, and ends them."""

    def __init__(self, world: guest.Guest, confinement: jail.Confinement) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            ours.close()
            _hatch(world, theirs, confinement)
        theirs.close()
        self._control = ours

    def fork(self) -> tuple[int, socket.socket]:
        """A new child: its process id, and a channel to it. Raises `OSError`."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [_FORK], [theirs.fileno()])
        try:
            pid = self._answer()
        except OSError:
            ours.close()
            raise
        return pid, ours

    def end(self, pid: int) -> int:
        """Kill a child if it lives; answers what it ended with, as waitpid(2) does. Raises `OSError`."""
        self._control.send(_END + _NUMBER.pack(pid))
        return self._answer()

    def _answer(self) -> int:
        data = self._control.recv(64)
        if len(data) != _NUMBER.size:
            raise OSError("the sandbox's zygote has ended" if not data else data.decode(errors="replace"))
        number: int = _NUMBER.unpack(data)[0]
        return number


def _hatch(world: guest.Guest, control: socket.socket, confinement: jail.Confinement) -> NoReturn:
    """Become the zygote: this process was just forked by its keeper, and ends with it."""
    try:
        for number in (0, 1, 2):
            os.dup2(1, number)  # /dev/null
        _serve(world, _lowest(control), confinement)
    except BaseException:  # the keeper notices
        os._exit(1)
    os._exit(0)


def _lowest(control: socket.socket) -> socket.socket:
    """The keeper's channel where a child will have its own, so that whatever else is open has a higher number."""
    if control.fileno() != child.CHANNEL:
        os.dup2(control.fileno(), child.CHANNEL)
        control.close()
        return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, child.CHANNEL)
    return control


def _serve(world: guest.Guest, control: socket.socket, confinement: jail.Confinement) -> None:
    world.forget_ours()
    jail.lock(confinement, keeper=True)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    itself = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            return  # the children die with this process
        if message[:1] == _END:
            pid = _NUMBER.unpack(message[1:])[0]
            os.kill(pid, signal.SIGKILL)  # nobody else waits for it, so this is still its number
            _, status = os.waitpid(pid, 0)
            control.send(_NUMBER.pack(status))
            continue
        try:
            pid = os.fork()
        except OSError as error:
            control.send(f"no process can be started: {error.strerror}".encode())
        else:
            if pid == 0:
                child.live(world, descriptors[0], itself, confinement)
            control.send(_NUMBER.pack(pid))
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)
