"""Sleeping between readings, and sending them every so often: `"duty": {"every": 12, "most": 3600, ...}`.

The board wakes, takes the readings that are due, has them on flash, and sleeps. With `every` readings waiting, with an
urgent one (of a kind whose priority in the spool is above 0), after a start, and `most` seconds after the last time, it
joins the network, sends all it has, and listens for commands; then the network is off again. The boot, the sequence and
the uptime go on over a sleep; over a loss of power they do not.
"""

import struct
from binascii import crc32

from micropython import const

from .commands import ACKNOWLEDGED, STATE
from .parts import add

DEFAULTS = {"every": 12, "most": 3600, "online": 60, "listen": 2, "least": 2}
"""Readings; then seconds: between two contacts, for one, for commands after all is sent, that are worth sleeping."""

_RESTING = const(0)
_JOINING = const(1)
_SENDING = const(2)
_LISTENING = const(3)
_LEAVING = const(4)

_POLL = const(50)
_NEVER = const(86400000)
_LONGEST = const(3600000)  # ms of one sleep: an RP2040 takes 71 minutes at most
_WAKES = const(10000)  # ms that a board may take to wake up
# Boot, sequence, uptime, for how long it is to sleep, the time (0: not known); uptime of the last contact, and the
# readings that it left.
_FORM = ">8sIQIQQI"


def attach(core, form, power=None):
    """Have the core live in duty cycles; raises ValueError for settings that are wrong."""
    options = dict(DEFAULTS)
    wifi = None
    for name in form if isinstance(form, dict) else ("duty",):
        if name == "wifi":
            wifi = form[name]
        elif name not in options or not isinstance(form[name], int) or form[name] < 1:
            raise ValueError("'duty': '" + str(name) + "' is not known, or not a whole number from 1")
        else:
            options[name] = form[name]
    if power is None:
        from .power import Power

        power = Power(wifi)
    add(core, Duty(core, options, power))


class Duty:
    """Says when the core may have a connection, and puts the board to sleep.

    `power` has `radio(on)`, `joined()`, `remember(data)`, `recall()` and `sleep(ms)`, which usually does not return.
    """

    def __init__(self, core, options, power):
        self._core = core
        self._power = power
        self._every = options["every"]
        self._most = options["most"] * 1000
        self._online = options["online"] * 1000
        self._listen = options["listen"] * 1000
        self._least = options["least"] * 1000
        self._phase = _RESTING
        self._until = 0
        self._deadline = 0
        self._contact = None  # uptime
        self._waiting = 0  # readings that the last contact has left
        self._slept = None  # the uptime at which the board fell asleep
        self._recall()

    def _recall(self):
        data = self._power.recall()
        self._power.remember(b"")  # once: should this start fail, the next is one of its own
        size = struct.calcsize(_FORM)
        if not data or len(data) != size + 4 or struct.pack(">I", crc32(data[:size])) != data[size:]:
            return
        core = self._core
        core.boot, core._seq, self._slept, asleep, then, self._contact, self._waiting = struct.unpack(
            _FORM, data[:size]
        )
        core._unsent = core._seq
        if then:
            core._epoch = then - self._slept * 1000
        time = core.hal.time()
        if then and time is not None and abs((time - then) // 1000 - asleep) < max(_WAKES, asleep // 10):
            asleep = (time - then) // 1000  # the clock knows better, unless it was set meanwhile
        core.hal.resume(self._slept + asleep)

    def tick(self, now):
        """Go on with what the board is at; returns the ms after which to be called again."""
        core = self._core
        if self._slept is not None:
            for timer in core._timers:
                timer.due = (self._slept // timer.period + 1) * timer.period
            self._slept = None
        if self._phase in (_RESTING, _JOINING, _LEAVING):
            core._retry_at = now + _NEVER  # it does not connect
        if self._phase == _RESTING:
            if self._is_due(now):
                self._power.radio(True)
                self._phase = _JOINING
                self._deadline = now + self._online
                return 0
            return self._rest(now)
        if self._phase == _LEAVING:  # the connection was ended with the last step
            self._power.radio(False)
            self._phase = _RESTING
            self._contact = now
            self._waiting = len(core.queue)
            core.queue.urgent = False
            return 0
        if now >= self._deadline:
            return self._leave(now, "the gateway was not reached in time")
        if self._phase == _JOINING:
            if self._power.joined():
                self._phase = _SENDING
                core._retry_at = now
        elif not self._is_settled():
            self._phase = _SENDING
        elif self._phase == _SENDING:
            self._phase = _LISTENING
            self._until = now + self._listen
        elif now >= self._until:
            return self._leave(now, "all is sent")
        return _POLL

    def _is_due(self, now):
        queue = self._core.queue
        if self._contact is None or queue.urgent:
            queue.urgent = False
            return True
        return len(queue) >= self._waiting + self._every or now - self._contact >= self._most

    def _is_settled(self):
        core = self._core
        return (
            core.online
            and not len(core.queue)
            and not core.out
            and all(entry[STATE] == ACKNOWLEDGED for entry in core.commands._recent)
            and (core.twin is None or core.twin.settled)
            and (core.ota is None or core.ota.settled)
        )

    def _leave(self, now, why):
        self._phase = _LEAVING
        self._core.link_down(now, why)
        self._core._retry_at = now + _NEVER
        return 0

    def _rest(self, now):
        core = self._core
        wait = self._contact + self._most - now
        for timer in core._timers:
            wait = min(wait, timer.due - now)
        wait = min(wait, _LONGEST)
        if wait < self._least:
            return wait
        if hasattr(core, "keep"):
            core.keep.settle()
        if not core.queue.settle():  # there are readings in RAM alone: the board stays awake for them
            return min(wait, self._least)
        epoch = core.epoch()
        time = 0 if epoch is None else epoch + now * 1000
        data = struct.pack(_FORM, core.boot, core._seq, now, wait, time, self._contact, self._waiting)
        self._power.remember(data + struct.pack(">I", crc32(data)))
        self._power.sleep(wait)
        # A port that sleeps and then goes on.
        self._power.remember(b"")
        return 0
