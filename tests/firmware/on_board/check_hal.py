"""The clock as the core sees it."""

import time

from edge_device.hal import Hal


class Ticks:
    """Stands in for the module `time` on a port whose ticks wrap, as they do on a board."""

    def __init__(self, epoch_year, nanoseconds):
        self.ticks = (1 << 30) - 100
        self._year = epoch_year
        self._nanoseconds = nanoseconds

    def gmtime(self, _):
        return (self._year, 1, 1)

    def ticks_ms(self):
        return self.ticks & (1 << 30) - 1

    def ticks_diff(self, new, old):
        return (new - old + (1 << 29) & (1 << 30) - 1) - (1 << 29)

    def time_ns(self):
        return self._nanoseconds


def with_time(module):
    from edge_device import hal

    hal.time = module
    return Hal()


def check_uptime_does_not_wrap():
    ticks = Ticks(1970, 0)
    try:
        hal = with_time(ticks)
        assert hal.uptime() == 0
        for _ in range(10):
            ticks.ticks += 1 << 28
            hal.uptime()
        assert hal.uptime() == 10 << 28
    finally:
        with_time(time)


def check_ports_that_count_from_2000_and_clocks_that_are_not_set():
    try:
        assert with_time(Ticks(1970, 1795000000000000000)).time() == 1795000000000000
        assert with_time(Ticks(2000, 848315200000000000)).time() == 1795000000000000
        assert with_time(Ticks(2000, 5000000000)).time() is None
        assert with_time(Ticks(1970, 5000000000)).time() is None
    finally:
        with_time(time)


def check_this_machine_knows_the_time():
    assert abs(Hal().time() - time.time_ns() // 1000) < 60000000
