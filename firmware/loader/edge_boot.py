"""The boot loader: which of two slots, `/a` and `/b`, a board starts from. No update ever touches this file.

A slot holds a whole version: `main.py`, and a `lib` with what it imports. A new version is on trial: it has so many
starts, and so much time, to be confirmed (by `edge_device.ota`, once the gateway has answered it). If it is not, the
other slot is started from then on.

Which slot it is stands in two files, written in turn, each with a count and a CRC: whatever is cut off while one of
them is written, the other one is whole.
"""

import os
import struct
import sys
import time
from binascii import crc32

SLOTS = ("/a", "/b")
CONFIRMED = 0
TRIAL = 1

# Why the version on trial was given up.
STARTS = 1  # its starts were used up
LATE = 2  # its time was
REFUSED = 3  # it said so itself

# What is known of the slots, a tuple.
COUNT = 0
SLOT = 1
MODE = 2
LEFT = 3  # starts that a version on trial has left
WHY = 4
NUMBER = 5  # of the newest offer that was taken: none that is older is taken again
HEALTH = 6  # seconds that a version on trial has

REPORT = "/ota.why"
"""The error with which a version on trial has ended, as text."""

_FILES = ("/ota.0", "/ota.1")
_FORM = ">2sIBBBBIH"
_SIZE = 16
_GRACE = 30  # seconds more than the version itself has to notice

running = 0
"""The slot that this start is from."""

_timer = None


def state():
    """What is known of the slots."""
    best = (0, 0, CONFIRMED, 0, 0, 0, 0)
    for name in _FILES:
        try:
            with open(name, "rb") as file:
                raw = file.read(_SIZE + 5)
        except OSError:
            continue
        if len(raw) == _SIZE + 4 and raw[:2] == b"eo" and struct.pack(">I", crc32(raw[:_SIZE])) == raw[_SIZE:]:
            found = struct.unpack(_FORM, raw[:_SIZE])[1:]
            if found[COUNT] > best[COUNT]:
                best = found
    return best


def store(slot, mode, left, why, number, health):
    """Have that be known from now on: all of it, or (should the power go) nothing."""
    count = state()[COUNT] + 1
    raw = struct.pack(_FORM, b"eo", count, slot, mode, left, why, number, health)
    with open(_FILES[count & 1], "wb") as file:
        file.write(raw + struct.pack(">I", crc32(raw)))
    if hasattr(os, "sync"):
        os.sync()


def switch(slot, number, starts, health):
    """Start from `slot` next time, on trial."""
    try:
        os.remove(REPORT)
    except OSError:
        pass
    store(slot, TRIAL, starts, 0, number, health)


def confirm():
    """The version on trial is good."""
    now = state()
    if now[MODE] == TRIAL:
        store(now[SLOT], CONFIRMED, 0, 0, now[NUMBER], 0)
    if _timer:
        _timer.deinit()


def back(why):
    """The version on trial is not good: start from the other slot next time. Returns that slot."""
    now = state()
    slot = now[SLOT]
    if now[MODE] == TRIAL:
        slot = 1 - slot
        store(slot, CONFIRMED, 0, why, now[NUMBER], 0)
    return slot


def reset():
    """Start anew; on a port without a reset, the program ends."""
    try:
        from machine import reset as again
    except ImportError:
        again = sys.exit
    again()


def choose():
    """The slot to start from now. A version on trial has one start less by that."""
    global running
    now = state()
    running = now[SLOT]
    if now[MODE] == TRIAL:
        try:
            if now[LEFT] and _holds(SLOTS[running]):
                store(running, TRIAL, now[LEFT] - 1, 0, now[NUMBER], now[HEALTH])
            else:
                running = back(STARTS)
        except OSError:  # a start that cannot be counted is not one for a version on trial
            running = 1 - running
    elif not _holds(SLOTS[running]) and _holds(SLOTS[1 - running]):
        running = 1 - running
    return running


def _holds(folder):
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return "main.py" in names or "main.mpy" in names


def _guard(seconds):
    # A program that hangs does not look at its time. Where there are no timers, switching the board off and on helps.
    global _timer
    try:
        from machine import Timer

        try:
            _timer = Timer(-1)
        except ValueError:  # a port that has those in hardware alone
            _timer = Timer(0)
        _timer.init(mode=Timer.ONE_SHOT, period=(seconds + _GRACE) * 1000, callback=_late)
    except Exception:  # whatever a port does without: the program is started all the same
        _timer = None


def _late(_timer):
    try:
        back(LATE)
    finally:  # where that cannot be written, the next start cannot be counted, and is one of the other slot
        reset()


def _note(error):
    try:
        with open(REPORT, "w") as file:
            file.write((type(error).__name__ + ": " + str(error))[:200])
    except OSError:  # no room: it goes back without a reason
        pass


def start():
    """Run the program of the slot; one that ends with an error is started again."""
    slot = SLOTS[choose()]
    sys.path[:] = [slot, slot + "/lib", ".frozen", "/lib", ""]
    now = state()
    on_trial = now[MODE] == TRIAL
    if on_trial:
        _guard(now[HEALTH])
    sys.modules.pop("main", None)  # ours
    try:
        __import__("main")
        return
    except Exception as error:
        sys.print_exception(error)
        if on_trial:
            _note(error)
    print("edge: the program has ended with an error; it is started again (Ctrl-C: the prompt)")
    time.sleep(1 if on_trial else 10)
    reset()
