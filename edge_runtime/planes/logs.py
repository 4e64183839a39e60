"""The three logs of the operational plane: application, error and security, as JSON lines beside the journal.

They also go to standard error in plain text, where a service manager collects them.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from pathlib import Path

from edge_runtime.errors import EdgeError

MAX_BYTES = 4 << 20
KEPT = 3
"""Each log is turned over at this size, and so many old ones are kept."""

SECURITY = "edge.security"
APPLICATION = "edge.app"


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "from": record.name,
            "text": record.getMessage(),
        }
        device = getattr(record, "device", None)
        if device is not None:
            line["device"] = device
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Plain(logging.Formatter):
    """One line each on the terminal; traces are in the error log."""

    def format(self, record: logging.LogRecord) -> str:
        time = self.formatTime(record, "%H:%M:%S")
        return f"{time} {record.levelname.lower():7} {record.name}: {_one_line(record.getMessage())}"


def _one_line(text: str) -> str:
    """A text without what would begin another line or steer a terminal: functions and boards have a say in it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def open_logs(folder: Path, *, terminal: bool = True) -> None:
    """Write the logs into `folder` (made if missing); `terminal` also prints them on standard error."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    root = logging.getLogger("edge")
    root.setLevel(logging.INFO)
    root.propagate = False
    root.handlers = []
    if terminal:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Plain())
        root.addHandler(handler)
    try:
        root.addHandler(_file(folder / "error.jsonl", logging.WARNING))
        for name, file in ((SECURITY, "security.jsonl"), (APPLICATION, "application.jsonl")):
            logger = logging.getLogger(name)
            logger.handlers = [_file(folder / file, logging.DEBUG)]
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> EdgeError:
    return EdgeError(
        f"the logs cannot be written to {folder}: {error.strerror}",
        hint="Name another gateway.data, or run the gateway as the folder's owner.",
    )


class _File(logging.handlers.RotatingFileHandler):
    """One of the three files. Lines for which there is no room are left out, as the disk may be full for hours."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _file(path: Path, level: int) -> logging.Handler:
    handler = _File(path, maxBytes=MAX_BYTES, backupCount=KEPT, encoding="utf-8")
    path.chmod(0o600)
    handler.setLevel(level)
    handler.setFormatter(_JsonLines())
    return handler
