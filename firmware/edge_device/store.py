"""Readings on flash, in segments of which the last grows and the first goes: a whole one at a time, or rewritten.

A segment begins with a state, and a state stands wherever something changes: whose readings follow (the boot), the
time at that boot's uptime 0 where it is known, how many readings had to go and are not reported. The state with the
highest stamp is the one that counts. All of it is written so that the power may go at any byte.

A segment is rewritten, without what is worth least, under the next number; it is valid once it ends with a state that
says up to which segment it has taken others into itself. Those it replaces are removed then, or at the next start.
"""

import errno
import struct

from micropython import const

from .queue import LOST, worth
from .segments import HEAD, LARGEST, Reader, append_record

_READING = const(0)
_STATE = const(1)

# A reading: type; what is lost and not reported from here on (a report), or _UNCHANGED; sequence; uptime, 6 bytes;
# the length of the kind. The kind and the data follow.
_READING_FORM = ">BIIHIB"
_READING_HEAD = const(16)
_UNCHANGED = const(0xFFFFFFFF)

# A state: type; stamp; boot; time at uptime 0 (0: not known); lost; the segment that is being removed; up to which one
# the segment that ends here has taken others; how many readings of which segment, the first, are acknowledged.
_STATE_FORM = ">BI8sQIIIII"
_STATE_BODY = const(41)
_STATE_SIZE = const(48)
_REMOVING = const(5)
_THROUGH = const(6)

_CLOCK_SET = const(2000000)
_PIECE = const(512)

# A segment, a list.
ID = 0  # its number, and in the last byte how often it was rewritten
SIZE = 1
COUNT = 2  # readings
LEAST = 3  # the lowest priority among them


def unpack(body):
    """(sequence, kind, uptime in ms, data as CBOR) of a reading's record."""
    _, _, seq, high, low, size = struct.unpack(_READING_FORM, body[:_READING_HEAD])
    end = _READING_HEAD + size
    return seq, str(body[_READING_HEAD:end], "utf-8"), high << 32 | low, body[end:]


class Store:
    """The segments. `core` has `boot` and `epoch()`; `priority` maps kinds to whole numbers, 0 where it does not."""

    def __init__(self, files, core, most, segment, priority):
        self._files = files
        self._core = core
        self._most = most
        self._segment = segment
        self._priority = priority
        self.segments = []
        self.stored = 0
        """Readings that are not acknowledged."""
        self.lost = 0
        """Readings that had to go and are not reported yet."""
        self.reporting = 0
        """Of those that are, how many only by reports that are not on flash."""
        self.acknowledged = 0
        """Of the first segment, from its beginning on."""
        self.done = set()
        """Readings behind those that are acknowledged too: (segment, number)."""
        self.told = 0
        """`lost` as it stands on flash."""
        self._total = 0
        self._dead = set()  # of files that are to be removed, and could not be
        self._newest = 0  # the highest number that a file has had
        self._stamp = 0
        self.due = True
        """Whether the last state on flash is not that of this start."""
        self.epoch = None
        """The time at uptime 0 as it stands on flash, or None."""
        self._open()

    # What is there at the start.

    def _open(self):
        newest = None
        covered = 0
        for number in self._files.list():
            self._newest = number >> 8
            if number >> 8 <= covered and number >> 8 != self.segments[-1][ID] >> 8:
                self._remove(number)
                continue
            segment = [number, self._files.size(number), 0, None]
            last = None
            found = None
            for body in self._bodies(segment, 0):
                last = body
                if body[0] == _STATE and len(body) == _STATE_BODY:
                    found = list(struct.unpack(_STATE_FORM, body))
                elif body[0] == _READING and found:
                    self._count(segment, unpack(body)[1])
                    lost = struct.unpack(">I", body[1:5])[0]
                    if lost != _UNCHANGED:
                        found[4] = lost
            through = found[_THROUGH] if found and last[0] == _STATE else 0
            if number & 0xFF:
                if not through:  # the power went while it was written
                    self._remove(number)
                    continue
                if self.segments and self.segments[-1][ID] >> 8 == number >> 8:
                    self._remove(self.segments.pop()[ID])
                covered = max(covered, through)
            if found and (newest is None or found[1] > newest[1]):
                newest = found
            self.segments.append(segment)
            # Where the last segment goes on as ours, it needs no other state.
            self.due = found is None or found is not newest or number & 0xFF != 0
        if newest:
            self.due = self.due or newest[2] != self._core.boot
            self._stamp = newest[1]
            self.epoch = newest[3] or None
            self.lost = self.told = newest[4]
            for segment in self.segments:
                if segment[ID] == newest[_REMOVING]:
                    self.segments.remove(segment)
                    self._remove(segment[ID])
                    break
            if self.segments and self.segments[0][ID] == newest[7]:
                self.acknowledged = min(newest[8], self.segments[0][COUNT])
        self._total = sum(segment[SIZE] for segment in self.segments)
        self.stored = sum(segment[COUNT] for segment in self.segments) - self.acknowledged

    def _count(self, segment, kind):
        priority = self.priority(kind)
        segment[COUNT] += 1
        segment[LEAST] = priority if segment[LEAST] is None else min(priority, segment[LEAST])

    def priority(self, kind):
        """What readings of this kind are worth."""
        return self._priority.get(kind, 0)

    # Reading.

    def reader(self, at, end=0):
        """Reads the records of the segment at that place; raises OSError."""
        # What a write that failed has left behind its end is in RAM as well.
        return Reader(self._files, self.segments[at][ID], end, self.segments[at][SIZE])

    def bodies(self, at, end=0):
        """The records of the segment at that place, from byte `end` of it on, as far as they can be read."""
        return self._bodies(self.segments[at], end)

    def _bodies(self, segment, end):
        try:
            reader = Reader(self._files, segment[ID], end, segment[SIZE])
            try:
                body = reader.next()
                while body is not None:
                    yield body
                    body = reader.next()
            finally:
                reader.close()
        except OSError:  # it is not there (nothing was written to it yet), or the flash is worn out
            pass

    def owner(self, body):
        """(boot, time at its uptime 0 or None) where a record is a state, else None."""
        if body[0] != _STATE:
            return None
        fields = struct.unpack(_STATE_FORM, body)
        return fields[2], fields[3] or None

    def is_done(self, at, number):
        """Whether a reading is acknowledged."""
        return (not at and number < self.acknowledged) or (self.segments[at][ID], number) in self.done

    # Writing.

    def record(self, out, reading):
        """Append a reading, as `unpack` returns it, to the bytearray `out`; its size, where `out` is None."""
        seq, kind, uptime, data = reading
        size = HEAD + _READING_HEAD + len(kind) + len(data)
        if out is not None:
            lost = _UNCHANGED
            if kind == LOST:
                self.reporting -= worth(reading)
                self.told = lost = self.lost + self.reporting
            head = struct.pack(_READING_FORM, _READING, lost, seq, uptime >> 32, uptime & 0xFFFFFFFF, len(kind))
            append_record(out, self.segments[-1][ID], head + kind.encode() + data)
        return size

    def is_ready(self, size):
        """Whether a record of this size can be added to the last segment as things stand."""
        epoch = self._core.epoch()
        moved = epoch is not None and (self.epoch is None or abs(epoch - self.epoch) > _CLOCK_SET)
        return not (moved or self.due or self._is_full(size))

    def has_room(self, size):
        """Whether so many bytes fit without a reading having to go."""
        whole = self._total + size + _STATE_SIZE
        return size <= LARGEST and whole <= self._most and len(self.segments) <= 2 * self._most // self._segment

    def append(self, out, kinds):
        """Write records of readings of these kinds to the last segment; returns the number of the first of them."""
        segment = self.segments[-1]
        self._extend(segment, out)
        self._total += len(out)
        first = segment[COUNT]
        for kind in kinds:
            self._count(segment, kind)
        self.stored += len(kinds)
        return first

    def _extend(self, segment, out):
        self._files.append(segment[ID], out)
        segment[SIZE] += len(out)

    def _is_full(self, size):
        return not self.segments or self.segments[-1][SIZE] + size > self._segment

    def new_segment(self):
        """Have what is written next stand in another segment."""
        if self.segments and not self.segments[-1][SIZE]:
            self._dead.add(self.segments.pop()[ID])  # a write to it has failed: what it left behind is unknown
        self._newest += 1
        self.segments.append([self._newest << 8, 0, 0, None])
        self.due = True

    def _state(self, owner, lost, removing=0, through=0, first=(0, 0)):
        self._stamp += 1
        lost += self.reporting
        return struct.pack(
            _STATE_FORM, _STATE, self._stamp, owner[0], owner[1] or 0, lost, removing, through, first[0], first[1]
        )

    def write_state(self, room=0, removing=0):
        """Write how things are, with `room` left behind it in the same segment."""
        if self._is_full(_STATE_SIZE + room):
            self.new_segment()
        epoch = self._core.epoch()
        first = (self.segments[0][ID], self.acknowledged)
        out = bytearray()
        state = self._state((self._core.boot, epoch), self.lost, removing, 0, first)
        append_record(out, self.segments[-1][ID], state)
        self.append(out, ())
        self.epoch = epoch
        self.told = self.lost + self.reporting
        self.due = False

    # Removing.

    def settle(self):
        """Remove the first segments as far as they are acknowledged."""
        while self.segments:
            first = self.segments[0]
            while (first[ID], self.acknowledged) in self.done:
                self.done.remove((first[ID], self.acknowledged))
                self.acknowledged += 1
            if self.acknowledged < first[COUNT]:
                break
            if len(self.segments) == 1 and self.lost:
                if not first[COUNT]:
                    break
                self.new_segment()  # how many are lost must not go with it
            if self.due and len(self.segments) > 1:
                self.write_state()
            self.acknowledged = 0
            self._forget(self.segments.pop(0))

    def _forget(self, segment):
        self._total -= segment[SIZE]
        self.done = {each for each in self.done if each[0] != segment[ID]}
        self._remove(segment[ID])

    def _remove(self, number):
        """Take a file away; where that fails (on a full littlefs, say) it is tried again with the next one."""
        self._dead.add(number)
        for each in list(self._dead):
            try:
                self._files.remove(each)
            except OSError as error:
                if error.errno != errno.ENOENT:
                    continue
            self._dead.discard(each)

    def make_room(self, size, priority, first):
        """Give up what is worth least, the oldest of it first, from the segment at the place `first` on.

        False where that is worth more than a reading of this priority, or there is nothing.
        """
        if size > min(LARGEST, self._most // 2):
            return False
        while not self.has_room(size):
            for at in range(first, len(self.segments) - 1):
                if not self.segments[at][COUNT] and not self.due:
                    self._forget(self.segments.pop(at))
                    break
            else:
                at = -1
            if at >= 0:
                continue
            if len(self.segments) == first + 1 and self.segments[first][COUNT]:
                self.new_segment()
                self.write_state()
            places = [at for at in range(first, len(self.segments) - 1) if self.segments[at][COUNT]]
            if not places:
                return False
            least = min(self.segments[at][LEAST] for at in places)
            if priority < least:
                return False
            for at in places:
                if self.segments[at][LEAST] == least:
                    break
            if at > first and self.segments[at - 1][SIZE] < self._segment // 2:
                at -= 1
            self._give_up(at, least)
        return True

    def _give_up(self, at, least):
        old = self.segments[at][ID]
        new = [old + 1, 0, 0, None]
        whole = new[ID] & 0xFF == 0  # it was rewritten as often as can be
        self._remove(new[ID])  # what another attempt has left
        if new[ID] in self._dead:
            raise OSError(errno.EIO)
        out = bytearray()
        context = None
        gone = lost = 0
        end = at
        while end == at or (end < len(self.segments) - 1 and new[SIZE] + self.segments[end][SIZE] <= self._segment):
            for body, owner in self._readings(end):
                _, kind, _, data = unpack(body)
                if whole or self.priority(kind) <= least:
                    gone += 1
                    lost += worth((0, kind, 0, data))
                    continue
                if owner != context:
                    context = owner
                    append_record(out, new[ID], self._state(owner, 0))
                append_record(out, new[ID], body)
                self._count(new, kind)
                if len(out) > _PIECE:
                    self._extend(new, out)
                    out = bytearray()
            end += 1
            if not context:  # nothing of it is left
                break
        if context:
            first = (self.segments[0][ID], self.acknowledged) if at else (0, 0)
            through = self.segments[end - 1][ID] >> 8
            append_record(out, new[ID], self._state(context, self.lost + lost, 0, through, first))
            self._extend(new, out)
            self._total += new[SIZE]
            self.due = True  # this state stands where it will go with the readings
        self.lost += lost
        if not context:
            try:
                self.write_state(0, old)
            except OSError:
                self.lost -= lost
                raise
        self.stored -= gone
        replaced = self.segments[at:end]
        self.segments[at:end] = [new] if context else []
        if not at:
            self.acknowledged = 0
        for segment in replaced:
            self._forget(segment)
        if self.due:
            self.write_state()

    def _readings(self, at):
        """(record, (boot, time at its uptime 0 or None)) of the readings in a segment that are not acknowledged."""
        owner = None
        number = 0
        for body in self.bodies(at):
            if body[0] == _STATE:
                owner = self.owner(body)
            elif owner:
                if not self.is_done(at, number):
                    yield body, owner
                number += 1
