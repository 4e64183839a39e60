"""What differs between boards and builds, as far as the core sees it: the clock, the uptime, randomness."""

import os
import time

_2000 = 946684800
_2025 = 1735689600000000


class Hal:
    """This board, by MicroPython's own modules."""

    def __init__(self):
        # Ports count seconds from 1970 or from 2000.
        self._offset = (_2000 if time.gmtime(0)[0] == 2000 else 0) * 1000000
        self._ticks = time.ticks_ms()
        self._uptime = 0

    def uptime(self):
        """Milliseconds since the start; never goes back and does not wrap (if it is called once in six days)."""
        ticks = time.ticks_ms()
        self._uptime += time.ticks_diff(ticks, self._ticks)
        self._ticks = ticks
        return self._uptime

    def resume(self, uptime):
        """The board has only slept since it was started: it has been up for so long already."""
        self._uptime += uptime

    def time(self):
        """Microseconds since 1970-01-01 UTC, or None: a clock before 2025 has not been set."""
        now = time.time_ns() // 1000 + self._offset
        return now if now > _2025 else None

    def random(self, number):
        """`number` random bytes from the hardware or the system."""
        return os.urandom(number)
