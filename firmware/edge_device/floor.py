"""A clock that is known to be behind, set to a moment that is past for sure: enough to check certificates by.

Readings are not dated by it. That it is no time goes on being known over a reset, by a file, until somebody sets the
clock to what it is: from then on `hal.Hal.time` has it.
"""

import os
import time

PATH = "/clock.floor"
"""A file that is there while the clock is not to be believed."""

_2000 = 946684800
_SET = 60000000


class Floor:
    """Stands before the `time` and `resume` of a `hal`, whose clock shows `clock` (microseconds since 1970) now."""

    def __init__(self, hal, clock):
        self._hal = hal
        self._start = clock - hal.uptime() * 1000  # what the clock showed at uptime 0
        self._time = hal.time
        self._resume = hal.resume
        hal.time = self.time
        hal.resume = self.resume
        hal.floor = self

    def lift(self, clock):
        """It shows `clock` now, and is to be doubted all the same."""
        self._start = clock - self._hal.uptime() * 1000

    def resume(self, uptime):
        """As of `hal.Hal`: the uptime goes on by so many ms at once."""
        self._start -= uptime * 1000
        self._resume(uptime)

    def time(self):
        """As of `hal.Hal`; None until the clock was set to a later time."""
        # It and the uptime run apart, but not by a minute between two looks.
        ahead = read_clock() - self._hal.uptime() * 1000 - self._start
        if ahead < _SET:
            if ahead > -_SET:
                self._start += ahead
            return None
        self._hal.time = self._time
        self._hal.resume = self._resume
        self._hal.floor = None
        try:
            os.remove(PATH)
        except OSError:
            pass
        return self._time()


def read_clock():
    """What the clock shows, in microseconds since 1970, be it right or not."""
    return time.time_ns() // 1000 + _epoch() * 1000000


def raise_clock(seconds, hal):
    """Set a clock that shows a moment before `seconds` (since 1970) to that one, without taking it for the time."""
    if read_clock() >= seconds * 1000000:
        return
    from machine import RTC

    try:
        # First, so that no loss of power leaves a clock that is believed; an empty file, written once.
        open(PATH, "a").close()
    except OSError:  # a flash without room: to be connected is worth more than a date after the next reset
        pass
    moment = time.gmtime(seconds - _epoch())
    RTC().datetime((moment[0], moment[1], moment[2], moment[6], moment[3], moment[4], moment[5], 0))
    hal = getattr(hal, "below", hal)
    floor = getattr(hal, "floor", None)
    # Not what the clock shows: some take a moment until they show what they were set to.
    if floor:
        floor.lift(seconds * 1000000)
    else:
        Floor(hal, seconds * 1000000)


def _epoch():
    # Ports count seconds from 1970 or from 2000.
    return _2000 if time.gmtime(0)[0] == 2000 else 0
