"""The board's own record of what it published and what was acknowledged: evidence that the gateway has no hand in.

One JSON object a line, appended and flushed at once; a line cut off by a loss of power is the last one.
"""

import json
import time
from array import array
from binascii import hexlify

_KEPT = 128  # the moments of first publishing, for commands that come later


def _micros():
    # Not ticks_us: where integers are short it wraps after minutes, and a board may be offline for longer.
    return time.time_ns() // 1000


def _hex(data):
    return hexlify(data).decode()


class Journal:
    """An observer of a device (see `edge_device.core.Core`) that writes down what it is told."""

    def __init__(self, path, boot):
        self._file = open(path, "a")  # noqa: SIM115 (open for as long as the board runs)
        self._boot = _hex(boot)
        self._own = boot
        # Arrays, not objects of their own: what lives long and lies scattered makes a heap of small pieces.
        self._seqs = array("q", bytes(8 * _KEPT))
        self._moments = array("q", bytes(8 * _KEPT))
        # A line that power cut off must not swallow this one: begin on a line of our own.
        self._file.write("\n")
        self._write({"event": "boot", "boot": self._boot, "t": _micros()})

    def _write(self, entry):
        json.dump(entry, self._file)
        self._file.write("\n")
        self._file.flush()

    def _since(self, seq):
        at = seq % _KEPT
        return _micros() - self._moments[at] if self._seqs[at] == seq and self._moments[at] else None

    def on_published(self, boot, seq, again):
        """An event goes out; `again` when it was sent before."""
        now = _micros()
        self._write({"event": "published", "boot": self._boot, "seq": seq, "t": now, "again": again})
        if not again:
            self._seqs[seq % _KEPT] = seq
            self._moments[seq % _KEPT] = _micros()

    def on_acknowledged(self, boot, seq):
        """The gateway has stored an event."""
        us = self._since(seq)
        self._write({"event": "acknowledged", "boot": self._boot, "seq": seq, "us": us})

    def on_command(self, command, name, cause, repeat):
        """A command has arrived; `cause` is (boot, seq) of our event that it answers to, or None."""
        us = self._since(cause[1]) if cause and cause[0] == self._own else None
        entry = {"event": "command", "id": _hex(command), "name": name, "us": us, "repeat": repeat}
        entry["cause"] = [_hex(cause[0]), cause[1]] if cause else None
        self._write(entry)
