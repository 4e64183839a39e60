"""The queue of a board with flash to spare: readings wait in RAM, and go to flash before that is full or lost.

`"spool": {"path": "/spool", "bytes": 65536, "segment": 4096, "after": 60, "priority": {"alarm": 1, "debug": -1}}`.
When the oldest reading has waited in RAM for `after` seconds, or there is no room, all that waits there is written in
one go. What goes out is the flash first, then the RAM: a board's readings keep their order. With `after` 0 each
reading is on flash before `emit` returns.
"""

from micropython import const

from .parts import add
from .queue import DATA, KIND, LOST, SEQ, UPTIME, Queue, worth
from .segments import Files
from .store import COUNT, ID, SIZE, Store, unpack

_AGAIN = const(10000)
_PIECE = const(1024)  # written at once, at most
_RESERVE = const(256)

DEFAULTS = {"path": "/spool", "bytes": 65536, "segment": 4096, "after": 60, "priority": {}}


def attach(core, form):
    """Have a spool take the place of the core's queue; raises ValueError for settings that are wrong."""
    if not isinstance(form, dict):
        raise ValueError('\'spool\' must be an object such as {"path": "/spool"}')
    options = dict(DEFAULTS)
    for name in form:
        if name not in options:
            raise ValueError("'spool' has an unknown entry '" + str(name) + "'")
        options[name] = form[name]
    for name, least in (("bytes", 1024), ("segment", 256), ("after", 0)):
        if not isinstance(options[name], int) or options[name] < least:
            raise ValueError("'spool': '" + name + "' must be a whole number from " + str(least))
    if options["segment"] * 4 > options["bytes"]:
        raise ValueError("'spool': 'bytes' must be at least four times 'segment'")
    try:
        store = Store(Files(options["path"]), core, options["bytes"], options["segment"], options["priority"])
    except OSError as error:  # a board whose flash is broken goes on without it
        core.log("there is no spool: " + str(error))
        return
    ring = Ring(core.config.options["queue"], core.config.options["queue_bytes"])
    core.queue = Spool(ring, store, core, options["after"] * 1000)
    add(core, core.queue)


class Ring(Queue):
    """The queue, and what it takes to empty it from the front."""

    def at(self, i):
        """The reading in place `i`, from the oldest on; None for one on its way that is acknowledged."""
        return self._slots[self._index(i)]

    def drop(self):
        """Take the oldest away."""
        reading = self.at(0)
        self._slots[self._head] = None
        self._head = self._index(1)
        self.count -= 1
        if self.flying:
            self.flying -= 1
        if reading is not None:
            self._bytes -= len(reading[DATA])


class Spool:
    """As `queue.Queue`, and in front of one. `core` has `boot`, `epoch()`, `hal` and `log`."""

    def __init__(self, queue, store, core, after):
        self._ram = queue
        self._store = store
        self._core = core
        self._after = after
        self.urgent = False
        """Whether a reading of a kind with a priority above 0 has come; who cares sets it back."""
        self.origin = None
        """Who took what `take` has returned: None for this boot, else (boot, time at its uptime 0, its uptime now)."""
        self._flying = []  # (segment, number, boot, seq) of those on flash
        self._next = 0  # when to try again after an error
        self._failed = False
        self._past = (None, None, 0)  # what is known of an earlier boot: its id, time at its uptime 0, last uptime
        self._to_front()

    def _to_front(self):
        # What is read next: the place of its segment, the byte, the number, and whose it is.
        self._index = self._at = self._number = 0
        self._owner = None
        self._flying = []

    # As the queue has it.

    def __len__(self):
        return self._store.stored + len(self._ram)

    @property
    def lost(self):
        """Readings that had to go and are not reported yet."""
        return self._store.lost

    @lost.setter
    def lost(self, number):
        self._store.lost = number

    @property
    def flying(self):
        """How many readings are on their way."""
        return len(self._flying) + self._ram.flying

    def has_room(self, size):
        """Whether a reading of `size` bytes fits without another having to go."""
        return self._store.has_room(size + _RESERVE)

    def push(self, reading):
        """Add a reading."""
        self.urgent = self.urgent or self._store.priority(reading[KIND]) > 0
        if not self._ram.has_room(len(reading[DATA])):
            self.store()
        self._ram.push(reading)
        self._store.lost += self._ram.lost  # there is no room on flash either
        self._ram.lost = 0
        if not self._after or reading[KIND] == LOST:  # a report, and the news that it was made, are stored as one
            self.store()

    def take(self, most, max_bytes):
        """The next readings for one packet, now on their way: of one boot, with sequences that follow each other."""
        while self._store.stored > len(self._flying):
            batch = self._take(most, max_bytes)
            if batch:
                return self._with_ram(batch, most, max_bytes)
            if not self._end_of_segment():
                break
        self.origin = None
        return self._ram.take(most, max_bytes)

    def _with_ram(self, batch, most, max_bytes):
        """The readings that follow in RAM go with the last ones on flash, as far as there is room."""
        ram = self._ram
        last = self._store.stored == len(self._flying) and self.origin is None
        if last and len(batch) < most and ram.flying < len(ram):
            reading = ram.at(ram.flying)
            room = max_bytes - sum(len(each[DATA]) + len(each[KIND]) + 6 for each in batch)
            if reading[SEQ] == batch[-1][SEQ] + 1 and len(reading[DATA]) + len(reading[KIND]) + 6 <= room:
                batch += ram.take(most - len(batch), room)
        return batch

    def acknowledge(self, seq, number, boot=None):
        """The gateway has `number` readings of that boot from sequence `seq` on."""
        boot = boot or self._core.boot
        flying = []
        for entry in self._flying:
            if entry[2] == boot and seq <= entry[3] < seq + number:
                self._store.done.add(entry[:2])
                self._store.stored -= 1
            else:
                flying.append(entry)
        if len(flying) < len(self._flying):
            self._flying = flying
            self._attempt(self._settle)
        if boot == self._core.boot:
            self._ram.acknowledge(seq, number)

    def rewind(self):
        """The connection is lost: what was on its way and is not acknowledged waits again."""
        self._ram.rewind()
        self._to_front()

    # When it is time.

    def tick(self, now):
        """Write what has waited for long enough; returns the ms after which to be called again."""
        if not len(self._ram):
            if (
                self._store.stored
                and not self._store.due
                and self._store.epoch is None
                and self._core.epoch() is not None
            ):
                self._attempt(self._store.write_state)  # what is stored was taken before the time was known
            return self._after or _AGAIN
        due = max(self._ram.at(0)[UPTIME] + self._after, self._next)
        if now < due:
            return due - now
        self.store()
        return _AGAIN

    def store(self):
        """Have everything on flash; True if it is."""
        return self._attempt(self._save)

    def settle(self):
        """Have everything on flash, and what was acknowledged too: the power is about to go."""
        stored = self.store()
        if self._store.acknowledged:
            self._attempt(self._store.write_state)
        return stored

    def _attempt(self, function):
        try:
            function()
        except OSError as error:  # the flash is full, or worn out: the board goes on with what it has
            self._next = self._core.hal.uptime() + _AGAIN
            self._store.new_segment()  # what a write that failed has left behind is unknown
            if not self._failed:
                self._failed = True
                self._core.log("the spool cannot be written: " + str(error))
            return False
        self._failed = False
        return True

    def _settle(self):
        store = self._store
        reading = store.segments[self._index][ID] if self._index < len(store.segments) else None
        try:
            store.settle()
        finally:
            for self._index, segment in enumerate(store.segments):
                if segment[ID] == reading:
                    break
            else:
                self._index = self._at = self._number = 0
                self._owner = None

    # RAM to flash.

    def _save(self):
        ram = self._ram
        store = self._store
        reports = [ram.at(i) for i in range(len(ram)) if ram.at(i) and ram.at(i)[KIND] == LOST]
        store.reporting = sum(worth(reading) for reading in reports)
        while len(ram):
            reading = ram.at(0)
            if reading is None:  # acknowledged
                ram.drop()
                continue
            size = store.record(None, reading)
            if not store.has_room(size):
                # What is on its way, and what is read next, stays.
                if not self.flying:
                    self._to_front()
                if not store.make_room(size, store.priority(reading[KIND]), self._index + 1 if self.flying else 0):
                    store.lost += worth(reading)
                    ram.drop()
                    continue
            if not store.is_ready(size):
                store.write_state(size)
            self._save_some(ram.flying > 0)
        if store.told != store.lost:
            store.write_state()

    def _save_some(self, flying):
        """Write as many of the first readings as go together: all on their way, or none."""
        ram = self._ram
        store = self._store
        out = bytearray()
        readings = []
        places = 0
        while places < (ram.flying if flying else len(ram)):
            reading = ram.at(places)
            if reading is not None:
                size = len(out) + store.record(None, reading)
                if readings and (size > _PIECE or not store.has_room(size) or not store.is_ready(size)):
                    break
                store.record(out, reading)
                readings.append(reading)
            places += 1
        number = store.append(out, [reading[KIND] for reading in readings])
        segment = store.segments[-1]
        for _ in range(places):
            ram.drop()
        if flying:  # then all that stands on flash is: what is read next stands behind it
            for reading in readings:
                self._flying.append((segment[ID], number, self._core.boot, reading[SEQ]))
                number += 1
            self._index = len(store.segments) - 1
            self._at = segment[SIZE]
            self._number = segment[COUNT]
            self._owner = (self._core.boot, None)

    # Flash to the gateway.

    def _take(self, most, max_bytes):
        store = self._store
        batch = []
        size = 0
        try:
            reader = store.reader(self._index, self._at)
        except OSError:  # it is not there any more
            return batch
        try:
            while len(batch) < most:
                body = reader.next()
                if body is None:
                    break
                owner = store.owner(body)
                if owner:
                    if batch and owner[0] != self._owner[0]:
                        break
                    self._owner = owner
                elif self._owner:
                    if not store.is_done(self._index, self._number):
                        reading = unpack(body)
                        size += len(reading[DATA]) + len(reading[KIND]) + 6
                        if batch and (size > max_bytes or reading[SEQ] != batch[-1][SEQ] + 1):
                            break
                        batch.append(reading)
                        self._flying.append(
                            (store.segments[self._index][ID], self._number, self._owner[0], reading[SEQ])
                        )
                    self._number += 1
                self._at = reader.end
        except OSError:  # what cannot be read is lost: without a batch, that is the end of the segment
            pass
        finally:
            reader.close()
        if batch:
            self._look_up(batch[-1][UPTIME])
        return batch

    def _end_of_segment(self):
        """Go on to the next segment; False if there is none. What should have been in this one is lost."""
        store = self._store
        segment = store.segments[self._index]
        while self._number < segment[COUNT]:
            if not store.is_done(self._index, self._number):
                store.done.add((segment[ID], self._number))
                store.stored -= 1
                store.lost += 1
            self._number += 1
        more = self._index + 1 < len(store.segments)
        if more:
            self._index += 1
            self._at = self._number = 0
            self._owner = None
        self._attempt(self._settle)
        return more

    def _look_up(self, last):
        """Have `origin` say whose readings these are; the last of them was taken at that uptime."""
        boot, epoch = self._owner
        if boot == self._core.boot:
            self.origin = None
            return
        if self._past[0] != boot:
            # All of its readings stand together; what is said last counts.
            owner = self._owner
            for at in range(self._index, len(self._store.segments)):
                for body in self._store.bodies(at, self._at if at == self._index else 0):
                    if self._store.owner(body):
                        owner = self._store.owner(body)
                        if owner[0] != boot:
                            break
                        epoch = owner[1] or epoch
                    else:
                        last = unpack(body)[2]
                if owner[0] != boot:
                    break
            self._past = (boot, epoch, last)
        # Where that boot did not know the time, its last reading is taken to be from just before this start.
        self.origin = (boot, self._past[1], self._past[2] + self._core.hal.uptime())
