"""The time by SNTP (RFC 4330), with how fast this board's oscillator runs: `"clock": {"host": "192.168.4.1"}`.

Stands before the core's `hal`. Between two answers the time is the uptime plus an offset, corrected by the drift that
answers an hour apart have shown: a board that is offline for a day is wrong by parts of a second, not by several.
Asking never blocks, but for a name that has to be looked up: give an address where readings must not wait.
"""

import socket
import struct

from micropython import const

from .parts import add

_1970 = const(2208988800)  # in seconds since 1900
_ERA = const(4294967296)
_2025 = const(1735689600)
_PATIENCE = const(2000)
_POLL = const(20)
_FIRST = const(15000)
_RETRY = const(300000)
_APART = const(1800000)  # ms between two answers that tell the drift
_MOST_DRIFT = const(500)  # millionths; what is beyond is a clock that was set

DEFAULTS = {"host": "pool.ntp.org", "port": 123, "every": 3600}


def attach(core, form):
    """Have the core ask for the time; raises ValueError for settings that are wrong."""
    options = dict(DEFAULTS)
    for name in form if isinstance(form, dict) else ("clock",):
        if name not in options or not isinstance(form[name], type(options[name])):
            raise ValueError("'clock': '" + str(name) + "' is not known, or of the wrong type")
        options[name] = form[name]
    core.hal = clock = Clock(core.hal)
    add(core, Asking(core, clock, options))


class Clock:
    """A `hal` with a better time: `heard` is told what a server says."""

    def __init__(self, hal):
        self.below = hal
        self.random = hal.random
        self.uptime = hal.uptime
        self.resume = getattr(hal, "resume", None)
        self._at = None  # uptime of the newest answer, ms
        self._offset = 0  # time less uptime then, microseconds
        self._first = None  # (uptime, offset): from where the drift is measured
        self.drift = 0.0
        """Millionths by which this board's uptime is too slow."""

    def time(self):
        """Microseconds since 1970-01-01 UTC, or None."""
        if self._at is None:
            return self.below.time()
        now = self.below.uptime()
        return now * 1000 + self._offset + int((now - self._at) * self.drift / 1000)

    def heard(self, asked, answered, time):
        """It was `time` (microseconds since 1970) in the middle between two uptimes (ms)."""
        middle = (asked + answered) // 2
        offset = time - (asked + answered) * 500
        if self._first is None:
            self._first = (middle, offset)
        elif middle - self._first[0] >= _APART:
            drift = (offset - self._first[1]) * 1000 / (middle - self._first[0])
            if abs(drift) <= _MOST_DRIFT:
                # Half of what is new: one answer that was late must not count for all.
                self.drift = drift if not self.drift else (self.drift + drift) / 2
            self._first = (middle, offset)
        self._at = middle
        self._offset = offset
        if getattr(self.below, "floor", None):
            # Certificates are checked by the board's own clock. It stays one that is not believed after a reset: the
            # sleep of some chips is timed to a twentieth.
            from .floor import raise_clock

            raise_clock(time // 1000000, self.below)


class Asking:
    """Asks a server every so often, and soon again where no answer comes."""

    def __init__(self, core, clock, options):
        self._core = core
        self._clock = clock
        self._options = options
        self._socket = None
        self._due = 0
        self._asked = 0
        self._token = b""
        self._pause = _FIRST

    def tick(self, now):
        """Ask, or look for the answer; returns the ms after which to be called again."""
        if self._socket is None:
            if now < self._due:
                return self._due - now
            links = self._core.config.links
            if not self._core.online and not (links and links.waits):
                return 1000  # no network either
            try:
                self._ask(now)
            except OSError:
                return self._again(now)
            return _POLL
        try:
            data = self._socket.recv(48)
        except OSError:
            data = None  # nothing yet
        if data and self._take(data, now):
            self._close()
            self._pause = _FIRST
            self._due = now + self._options["every"] * 1000
        elif now - self._asked > _PATIENCE:
            return self._again(now)
        return _POLL

    def _ask(self, now):
        found = socket.getaddrinfo(self._options["host"], self._options["port"], 0, socket.SOCK_DGRAM)
        self._socket = socket.socket(found[0][0], socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(found[0][-1])
        self._token = self._core.hal.random(8)
        self._asked = self._core.hal.uptime()
        # Our own time goes out as a random number, which comes back as "originate": an answer to nobody else.
        self._socket.send(b"\x23" + bytes(39) + self._token)

    def _take(self, data, now):
        if (
            len(data) < 48
            or data[24:32] != self._token
            or data[0] & 7 != 4
            or data[0] >> 6 == 3
            or not 0 < data[1] < 16
        ):
            return False
        seconds, fraction = struct.unpack(">II", data[40:48])
        seconds -= _1970
        if seconds < _2025:
            seconds += _ERA  # from 2036 on
        self._clock.heard(self._asked, self._core.hal.uptime(), seconds * 1000000 + (fraction * 1000000 >> 32))
        return True

    def _again(self, now):
        self._close()
        self._due = now + self._pause
        self._pause = min(self._pause * 2, _RETRY)
        return self._pause

    def _close(self):
        if self._socket is not None:
            self._socket.close()
            self._socket = None
