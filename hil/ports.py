"""What can be wrong with a serial port before anybody has spoken on it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path


def trouble(port: Path) -> str:
    """Why nobody can be spoken to at `port`, and what to do; empty where it can be opened."""
    try:
        descriptor = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        match error.errno:
            case errno.EACCES | errno.EPERM:
                return (
                    f"you may not open {port}: serial ports belong to the group dialout "
                    "(sudo usermod -aG dialout $USER, then log in again)"
                )
            case errno.EBUSY:
                return _taken(port)
            case errno.EISDIR | errno.ENOTDIR:
                return _no_port(port)
        return f"nothing is connected at {port}: plug the board in (some cables carry power alone)"
    try:
        if not os.isatty(descriptor):
            return _no_port(port)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock that pyserial takes, and all that use it
    except OSError:
        return _taken(port)
    finally:
        os.close(descriptor)
    return ""


def _taken(port: Path) -> str:
    return f"another program has {port}: close the terminal that is open on it, or stop the gateway that uses it"


def _no_port(port: Path) -> str:
    return f"{port} is no serial port"
