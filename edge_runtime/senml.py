"""Sensor measurement lists (SenML, RFC 8428): packs, already decoded from JSON or CBOR, to resolved records.

Resolved (section 4.6): base fields are applied, names are whole, times absolute.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from typing import Any

import msgspec

from edge_runtime.errors import WireError

VERSION = 10
MAX_RECORDS = 1000
RELATIVE = 2**28
"""Times below this many seconds count from now (section 4.5.3)."""
_LATEST = 2**42
"""Seconds: whatever is computed with a time stays within 64 bits of microseconds."""

_LABELS = {
    -1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip
"""The labels of CBOR (section 6, table 4)."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:./_-]*")
_VALUES = ("v", "vs", "vb", "vd")


class Record(msgspec.Struct, frozen=True):
    """One resolved record."""

    name: str
    time: int
    """Microseconds since 1970-01-01 UTC."""
    value: float | str | bool | bytes | None
    """None in a record that has a sum alone."""
    unit: str
    sum: float | None

    @property
    def local_name(self) -> str:
        """What follows the last `:` or `/` of the name: the name without what makes it unique in the world."""
        return re.split("[:/]", self.name)[-1]


class _Base:
    """The base fields that hold from their record on (section 4.1)."""

    def __init__(self) -> None:
        self.name = ""
        self.time: float = 0
        self.unit = ""
        self.value: float | None = None
        self.sum: float | None = None
        self.version = VERSION

    def take(self, record: dict[str, Any], where: str) -> None:
        self.name = _text(record, "bn", where, self.name)
        self.unit = _text(record, "bu", where, self.unit)
        self.time = _seconds(record, "bt", where, self.time)
        self.value = _number(record, "bv", where, self.value)
        self.sum = _number(record, "bs", where, self.sum)
        version = record.get("bver", self.version)
        if type(version) is not int or not 0 < version <= VERSION:
            raise WireError(f"{where}: version {version!r}; up to {VERSION} is understood (section 4.4)")
        self.version = version


def resolve(pack: Any, *, binary: bool, now: int) -> list[Record]:
    """The records of a pack; `binary`: it came as CBOR. `now`: microseconds. Raises WireError."""
    if type(pack) is not list or not 1 <= len(pack) <= MAX_RECORDS:
        raise WireError(f"a SenML pack is an array of 1 to {MAX_RECORDS} records")
    base = _Base()
    found = []
    for index, item in enumerate(pack):
        where = f"SenML record {index}"
        if type(item) is not dict:
            raise WireError(f"{where} is not a map")
        record = _by_name(item, binary, where)
        for label in record:
            if label.endswith("_"):
                raise WireError(f"{where}: the field {label!r} must be understood, and is not (section 4.4)")
        base.take(record, where)
        if any(label in record for label in (*_VALUES, "s")) or not any(label.startswith("b") for label in record):
            found.append(_record(record, base, binary, now, where))
    if not found:
        raise WireError("a SenML pack without a value")
    return found


def _record(record: dict[str, Any], base: _Base, binary: bool, now: int, where: str) -> Record:
    name = base.name + _text(record, "n", where, "")
    if not _NAME.fullmatch(name):
        raise WireError(f"{where}: {name[:80]!r} is not a name (section 4.5.1)")
    seconds = base.time + _seconds(record, "t", where, 0)
    if not -_LATEST < seconds < _LATEST:
        raise WireError(f"{where}: its time is out of range")
    micros = round(seconds * 1_000_000)
    time = now + micros if seconds < RELATIVE else micros
    total = _number(record, "s", where, None)
    if base.sum is not None and ("s" in record or not any(label in record for label in _VALUES)):
        total = base.sum + (total or 0)
    value = _value(record, base, binary, where)
    if value is None and total is None:
        raise WireError(f"{where} has neither a value nor a sum")
    return Record(name, time, value, _text(record, "u", where, base.unit), total)


def _value(record: dict[str, Any], base: _Base, binary: bool, where: str) -> float | str | bool | bytes | None:
    given = [label for label in _VALUES if label in record]
    if len(given) > 1:
        raise WireError(f"{where} has more than one value: {', '.join(given)}")
    if not given or given[0] == "v":
        number = _number(record, "v", where, None)
        if base.value is None or (number is None and "s" in record):
            return number
        return base.value + (number or 0)
    value = record[given[0]]
    if given[0] == "vs" and type(value) is str:
        return value
    if given[0] == "vb" and type(value) is bool:
        return value
    if given[0] == "vd" and binary and type(value) is bytes:
        return value
    if given[0] == "vd" and not binary and type(value) is str:
        try:
            return urlsafe_b64decode(value + "=" * (-len(value) % 4))
        except ValueError:
            pass
    raise WireError(f"{where}: '{given[0]}' has a value of the wrong type")


def _by_name(record: dict[Any, Any], binary: bool, where: str) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for label, value in record.items():
        if binary and type(label) is int:
            if label in _LABELS:
                named[_LABELS[label]] = value
        elif type(label) is str:
            named[label] = value
        else:
            raise WireError(f"{where}: a label that is no label of SenML")
    return named


def _text(record: dict[str, Any], label: str, where: str, default: str) -> str:
    value = record.get(label, default)
    if type(value) is not str or len(value) > 256:
        raise WireError(f"{where}: '{label}' is not a text of at most 256 characters")
    return value


def _number(record: dict[str, Any], label: str, where: str, default: float | None) -> float | None:
    if label not in record:
        return default
    value = record[label]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e308 < value < 1e308:
        raise WireError(f"{where}: '{label}' is not a finite number")
    return value


def _seconds(record: dict[str, Any], label: str, where: str, default: float) -> float:
    value = _number(record, label, where, default)
    if value is None or not -_LATEST < value < _LATEST:
        raise WireError(f"{where}: '{label}' is not a time in seconds")
    return value
