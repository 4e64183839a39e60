"""Counts pulses on a pin: a water meter's contact, an anemometer, a flow sensor."""

import time

_WRAP = 1 << 24
# In an interrupt nothing may be allocated: the count there stays a small integer, and is carried over in `read`.


class Counter:
    """On a `machine.Pin`: its falling edges, of which those within `debounce` ms of the one before do not count."""

    def __init__(self, pin, name="count", debounce=5, ticks_ms=None, ticks_diff=None):
        self._name = name
        self._debounce = debounce
        self._ticks_ms = ticks_ms or time.ticks_ms
        self._ticks_diff = ticks_diff or time.ticks_diff
        self._last = self._ticks_ms()
        self._first = True
        self._seen = 0
        self._carried = 0
        self.total = 0
        """All pulses since the start; grows without end."""
        pin.irq(handler=self._edge, trigger=pin.IRQ_FALLING)

    def _edge(self, _pin):
        now = self._ticks_ms()
        if self._first or self._ticks_diff(now, self._last) >= self._debounce:
            self._seen = self._seen + 1 & _WRAP - 1
            self._first = False
        self._last = now  # a contact that chatters on and on is one pulse

    def read(self):
        """{name: pulses since the last call, name + "_total": all}. Call it once in 16 million pulses at least."""
        seen = self._seen
        new = seen - self._carried & _WRAP - 1
        self._carried = seen
        self.total += new
        return {self._name: new, self._name + "_total": self.total}
