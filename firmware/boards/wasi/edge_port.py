"""The port for MicroPython's WASI build, which has no sockets: its host carries the bytes (`host.call(name, text)`).

`open` host:port, `send` hex, `close`, `random` number of bytes, and `wait` milliseconds, which returns early with what
has arrived, in hex. Text goes both ways; an answer of "closed" says that the connection is gone.

The collector of this build does not see what WebAssembly keeps in locals, among them the state of a running function
that needs more than a few words; collecting in the middle of one breaks the interpreter. So the program has to call
`gc.disable()` first of all, and `run` collects where no such function is running.
"""

import gc
from binascii import hexlify, unhexlify

import host
from edge_device import hal

_CHUNK = 512


class Hal(hal.Hal):
    """This build has clocks, but no source of random numbers."""

    def random(self, number):
        """`number` random bytes, from the host."""
        return unhexlify(host.call("random", str(number)))


class Port:
    """Drives a core, one turn at a time."""

    def __init__(self, core):
        self._core = core
        self._up = False

    def turn(self):
        """One step of the core, and what it asks for; then wait for the next."""
        core = self._core
        uptime = core.hal.uptime
        try:
            wait = core.step(uptime())
            if core.wants_link != self._up or (self._up and not core.session.state):
                self._change()
                return
            if self._up and core.out:
                wait = self._send(wait)
            answer = host.call("wait", str(wait))
            if answer == "closed":
                self._down("the gateway closed the connection")
            elif answer:
                core.receive(unhexlify(answer), uptime())
        except Exception as error:
            host.call("close", "")
            self._down("the board gave up the connection: " + repr(error))

    def _change(self):
        core = self._core
        if self._up:
            host.call("close", "")
            self._up = False
            return
        address = core.link.host + ":" + str(core.link.port)
        if host.call("open", address) == "up":
            self._up = True
            core.link_up(core.hal.uptime())
        else:
            self._down("no connection to " + address)

    def _send(self, wait):
        core = self._core
        answer = host.call("send", hexlify(core.out[:_CHUNK]))
        if answer == "closed":
            self._down("the connection broke")
            return 0
        core.sent(int(answer))
        return 20 if core.out else wait

    def _down(self, why):
        self._up = False
        self._core.link_down(self._core.hal.uptime(), why)


def run(core):
    """Drive the core for ever."""
    turn = Port(core).turn
    while True:  # small on purpose: see above
        turn()
        if gc.mem_free() < gc.mem_alloc():
            gc.collect()
