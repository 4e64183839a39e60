"""Moments by the calendar: crontab(5) expressions of five fields, in a time zone. Pure functions, no clock.

The fields are minute, hour, day of the month, month and day of the week, as POSIX and Vixie's cron have them: `*`,
numbers, names (`MON`, `jan`), ranges, lists and steps. Where both days are restricted, either will do.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import msgspec

from edge_runtime.errors import EdgeError, nearest

MAX_LENGTH = 200
HORIZON = 9 * 366
"""Days that are looked at: 29 February may be eight years away."""
SET_BACK = timedelta(hours=3)
"""Clocks are not set back by more."""
LAST_YEAR = 9000
"""What is later than this has no next moment."""

_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}
_DAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CronError(EdgeError):
    """That is not a cron expression, or no time zone; the message names the field."""


class Cron(msgspec.Struct, frozen=True):
    """A parsed expression."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    any_hour: bool
    any_day: bool
    """The day of the month begins with `*`."""
    any_weekday: bool

    @classmethod
    def parse(cls, text: str) -> Cron:
        """Read an expression such as `0 6 * * MON-FRI`. Raises `CronError`."""
        fields = text.split()
        if len(text) > MAX_LENGTH or len(fields) != len(_FIELDS):
            raise CronError(
                f"cron={text[:MAX_LENGTH]!r} has {len(fields)} fields and needs five",
                hint="They are minute, hour, day of the month, month, day of the week: '0 6 * * *' is 6:00 every day.",
            )
        minutes, hours, days, months, weekdays = (
            _field(field, *rules) for field, rules in zip(fields, _FIELDS, strict=True)
        )
        found = cls(
            tuple(sorted(minutes)),
            tuple(sorted(hours)),
            frozenset(days),
            frozenset(months),
            frozenset(day % 7 for day in weekdays),
            fields[1].startswith("*"),
            fields[2].startswith("*"),
            fields[4].startswith("*"),
        )
        longest = max(29 if month == 2 else calendar.monthrange(2023, month)[1] for month in months)
        if found.any_weekday and min(days) > longest:
            raise CronError(f"cron={text!r}: the day of the month {fields[2]} never comes in the month {fields[3]}")
        return found

    def on(self, day: date) -> bool:
        """Whether there are moments on a day."""
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, (day.weekday() + 1) % 7 in self.weekdays
        return (by_month and by_week) if self.any_day or self.any_weekday else (by_month or by_week)

    def next_after(self, moment: int, zone: tzinfo) -> int | None:
        """The first moment later than `moment`, both in microseconds since 1970; None if there is none in nine years.

        What the clocks leave out in spring comes when they go on, once. What they show twice in autumn comes the first
        time only, unless every hour is meant: such a schedule goes by the time that passes.
        """
        start = _EPOCH + timedelta(microseconds=moment)
        if start.year > LAST_YEAR:
            return None
        earliest = start.astimezone(zone).replace(tzinfo=None) - SET_BACK
        day = earliest.date()
        for _ in range(HORIZON):
            if self.on(day):
                found: datetime | None = None
                for local in self._shown(day, earliest):
                    if found is not None and local - found.astimezone(zone).replace(tzinfo=None) > SET_BACK:
                        break
                    later = [at for at in self._moments(local, zone) if at > start]
                    found = min(later if found is None else [found, *later], default=None)
                if found is not None:
                    return (found - _EPOCH) // timedelta(microseconds=1)
            day += timedelta(days=1)
        return None

    def _shown(self, day: date, earliest: datetime) -> Iterator[datetime]:
        """What a clock on the wall shows at the moments of a day."""
        for hour in self.hours:
            for minute in self.minutes:
                local = datetime(day.year, day.month, day.day, hour, minute)
                if local >= earliest:
                    yield local

    def _moments(self, local: datetime, zone: tzinfo) -> Iterator[datetime]:
        first = local.replace(tzinfo=zone).astimezone(UTC)
        if first.astimezone(zone).replace(tzinfo=None) != local:
            yield _resumed(local, zone)
            return
        yield first
        if self.any_hour:
            yield local.replace(tzinfo=zone, fold=1).astimezone(UTC)


def _resumed(local: datetime, zone: tzinfo) -> datetime:
    """When the clocks go on that have left out a local time (PEP 495: the fold picks the offset before or after)."""
    low = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    high = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if middle <= low:
            break
        if middle.astimezone(zone).replace(tzinfo=None) > local:
            high = middle
        else:
            low = middle
    return high


@lru_cache(maxsize=64)
def zone_of(name: str) -> ZoneInfo:
    """A time zone of the system's database by its name, such as `Europe/Berlin`. Raises `CronError`."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        known = available_timezones()
        hint = nearest(name, known) if known else "This system has no time zones: install its package tzdata."
        raise CronError(f"there is no time zone {name[:64]!r}", hint=hint if len(hint) < 200 else "") from None


def _field(text: str, name: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        found |= _part(part, text, name, low, high, names)
    return found


def _part(part: str, text: str, name: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    def number(word: str) -> int:
        value = names.get(word.lower(), int(word) if word.isascii() and word.isdigit() and len(word) <= 4 else -1)
        if not low <= value <= high:
            kinds = f" or {', '.join(names)}" if names else ""
            raise CronError(
                f"the {name} of a cron expression is {text!r}, and {word!r} is none: {low} to {high}{kinds}",
                hint="A field is *, numbers, ranges (1-5), lists (1,15) and steps (*/10).",
            )
        return value

    range_, slash, step_text = part.partition("/")
    step = 1
    if slash:
        if not (step_text.isascii() and step_text.isdigit() and int(step_text[:4]) > 0 and len(step_text) <= 4):
            raise CronError(f"the {name} of a cron expression is {text!r}, and its step {step_text!r} is no number")
        step = int(step_text)
    if range_ == "*":
        first, last = low, high
    elif "-" in range_:
        start, _, end = range_.partition("-")
        first, last = number(start), number(end)
        if last == 0 and names is _DAYS:
            last = 7  # SAT-SUN
        if first > last:
            raise CronError(f"the {name} of a cron expression is {text!r}, and {range_!r} goes backwards")
    else:
        first = number(range_)
        last = high if slash else first
    if names is _DAYS and range_ == "*":
        last = 6
    return set(range(first, last + 1, step))
