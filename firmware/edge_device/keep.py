"""What a board knows over a restart: its configuration, its last report, the commands it has carried out.

`"keep": "/state"` names the files. Each is written to two places in turn, with a count and a CRC: whatever is cut off
while one is written, the other is whole.
"""

import struct
from binascii import crc32

from micropython import const

from . import cbor, wire
from .commands import ACKNOWLEDGED, ID, REPLY
from .parts import add

_HEAD = const(10)
_LONGEST = const(128)  # of a reply that is kept: a longer one is only known to have been given
_NEVER = const(86400000)
_INTERRUPTED = "the board was started anew while it did this: it may be done, or not"


def attach(core, path):
    """Have the core remember in files that begin with `path`; raises ValueError."""
    if not isinstance(path, str) or not path:
        raise ValueError("'keep' must be a path such as \"/state\"")
    core.keep = Keep(core, path)
    add(core, core.keep)


class Slots:
    """A piece of data in two files, `path`.0 and `path`.1."""

    def __init__(self, path):
        self._path = path
        self._count = 0
        self._read = False

    def load(self):
        """What was saved last, or None."""
        found = None
        self._read = True
        for n in (0, 1):
            try:
                with open(self._path + "." + str(n), "rb") as file:
                    raw = file.read()
            except OSError:
                continue
            if len(raw) < _HEAD:
                continue
            count, size, check = struct.unpack(">IHI", raw[:_HEAD])
            data = raw[_HEAD:]
            if len(data) == size and crc32(data, count) == check and count > self._count:
                self._count = count
                found = data
        return found

    def save(self, data):
        """Save bytes, 65,535 at most: all of it is there afterwards or, should the power go, what was before.

        Raises ValueError for more, and OSError.
        """
        if len(data) > 65535:
            raise ValueError("more than 65,535 bytes")
        if not self._read:
            self.load()
        count = self._count + 1
        with open(self._path + "." + str(count & 1), "wb") as file:
            file.write(struct.pack(">IHI", count, len(data), crc32(data, count)))
            file.write(data)
        self._count = count


class Keep:
    """Saves the commands with each of them, the configuration with each version, the report when the power goes."""

    def __init__(self, core, path):
        self._core = core
        self._commands = Slots(path + ".commands")
        self._twin = Slots(path + ".twin")
        self._version = 0
        self._config = None
        self._report = None
        self._restored = False
        core.commands.keep = self.save_commands
        data = self._commands.load()
        for command, reply in cbor.decode(data) if data else ():
            core.commands._recent.append([command, reply, ACKNOWLEDGED, True])
        data = self._twin.load()
        if data:
            self._version, self._config, self._report = cbor.decode(data)

    def save_commands(self, started=None):
        """Save what is remembered of commands, and that the one with the id `started` is begun now."""
        known = []
        for entry in self._core.commands._recent:
            reply = bytes(entry[REPLY])
            if len(reply) > _LONGEST:
                reply = bytes(wire.encode_reply(entry[ID], cbor.decode(reply)[1]))
            known.append([entry[ID], reply])
        if started is not None:
            known = known[-15:]
            known.append([started, bytes(wire.encode_reply(started, wire.FAILED, _INTERRUPTED))])
        self._save(self._commands, known)

    def save_config(self, version, config):
        """Save a configuration that was taken."""
        if version != self._version:
            self._version = version
            self._config = config
            self._save_twin()

    def tick(self, now):
        """With the first step: give the program the configuration that it had."""
        twin = self._core.twin
        if self._restored or twin is None:
            return _NEVER
        self._restored = True
        if self._version and twin.handler:
            twin.restore(self._version, self._config)
        if self._report is not None:
            twin.restore_report(self._report)
        return _NEVER

    def settle(self):
        """The power is about to go: save the report that was not delivered."""
        twin = self._core.twin
        report = twin.undelivered() if twin else None
        if report != self._report and self._restored:
            self._report = report
            self._save_twin()

    def _save_twin(self):
        self._save(self._twin, [self._version, self._config, self._report])

    def _save(self, slots, value):
        out = bytearray()
        try:
            cbor.encode(value, out)
            slots.save(out)
        except (OSError, ValueError) as error:  # the board goes on, and forgets this at the next start
            self._core.log("what is to be kept cannot be written: " + str(error))
