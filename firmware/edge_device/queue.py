"""Readings in RAM until the gateway has them: a ring of fixed size, bounded in readings and in bytes."""

from . import cbor

LOST = "edge.lost"
"""Kind of the event that says how many readings had to go for want of room: {"count": n}."""

# Fields of a reading, a tuple.
SEQ = 0
KIND = 1
UPTIME = 2  # milliseconds
DATA = 3  # CBOR


def worth(reading):
    """How many lost readings one is: a report that has to go itself takes its count back with it."""
    return cbor.decode(reading[DATA])["count"] if reading[KIND] == LOST else 1


class Queue:
    """Readings in the order in which they were taken; the first `flying` of them are on their way.

    A reading leaves when it is acknowledged. When there is no room the oldest one that is not on its way has to go
    (it is the new one where all are on their way), so that what goes has not been delivered on this connection.
    """

    def __init__(self, slots=64, max_bytes=8192):
        self._slots = [None] * slots
        self._head = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self.count = 0
        self.flying = 0
        self.lost = 0
        """Readings that had to go and are not reported yet."""

    origin = None  # as in `spool.Spool`

    def __len__(self):
        return self.count

    def _index(self, i):
        return (self._head + i) % len(self._slots)

    def has_room(self, size):
        """Whether a reading of `size` bytes fits without another having to go."""
        return self.count < len(self._slots) and self._bytes + size <= self._max_bytes

    def push(self, reading):
        """Add a reading; returns the list of those that had to go (usually empty, perhaps the new one itself)."""
        gone = []
        size = len(reading[DATA])
        while not self.has_room(size):
            if self.flying >= self.count:
                gone.append(reading)
                self.lost += worth(reading)
                return gone
            gone.append(self._remove_oldest_waiting())
            self.lost += worth(gone[-1])
        self._slots[self._index(self.count)] = reading
        self.count += 1
        self._bytes += size
        return gone

    def _remove_oldest_waiting(self):
        reading = self._slots[self._index(self.flying)]
        for i in range(self.flying, 0, -1):
            self._slots[self._index(i)] = self._slots[self._index(i - 1)]
        self._slots[self._head] = None
        self._head = self._index(1)
        self.count -= 1
        self._bytes -= len(reading[DATA])
        return reading

    def take(self, most, max_bytes):
        """The next readings for one packet, now on their way: at most `most`, with sequences that follow each other.

        More than one only as far as their data stays within `max_bytes`. Empty when nothing waits.
        """
        batch = []
        size = 0
        while self.flying < self.count and len(batch) < most:
            reading = self._slots[self._index(self.flying)]
            size += len(reading[DATA]) + len(reading[KIND]) + 6
            if batch and (size > max_bytes or reading[SEQ] != batch[-1][SEQ] + 1):
                break
            batch.append(reading)
            self.flying += 1
        return batch

    def acknowledge(self, seq, number, boot=None):
        """The gateway has `number` readings from sequence `seq` on; acknowledgements may come in any order."""
        for i in range(self.flying):
            index = self._index(i)
            reading = self._slots[index]
            if reading is not None and seq <= reading[SEQ] < seq + number:
                self._slots[index] = None
                self._bytes -= len(reading[DATA])
        while self.flying and self._slots[self._head] is None:
            self._head = self._index(1)
            self.count -= 1
            self.flying -= 1

    def rewind(self):
        """The connection is lost: what was on its way and is not acknowledged waits again."""
        kept = 0
        for i in range(self.count):
            reading = self._slots[self._index(i)]
            if reading is not None:
                if kept != i:
                    self._slots[self._index(i)] = None
                    self._slots[self._index(kept)] = reading
                kept += 1
        self.count = kept
        self.flying = 0
