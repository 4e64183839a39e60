"""The watchdog, tested as its users would test it."""

from __future__ import annotations

import json

import watchdog
from edge.testing import Deferred, Emitted, request, run, tick


def test_each_reading_puts_the_alarm_off() -> None:
    """The alarm waits 15 minutes from the newest reading."""
    result = run(watchdog.reading, "climate", {"temperature": 21}, device="gh-1", time=5)
    assert result.deferred == [Deferred("silent", {"last": 5}, 900.0, "silence")]


def test_silence_is_an_alarm() -> None:
    """What has been deferred has come."""
    assert run(watchdog.alarm, "silent", {"last": 5}).emitted == [Emitted("alarm", {"what": "silent", "last": 5})]


def test_the_day_begins_at_six() -> None:
    """A tick carries the moment that was due."""
    assert tick(watchdog.morning, due=7).emitted == [Emitted("day", {"due": 7})]


def test_somebody_tries_the_alarm() -> None:
    """The answer is JSON."""
    result = request(watchdog.try_alarm, headers={"User-Agent": "curl"})
    assert result.emitted == [Emitted("alarm", {"what": "test", "by": "curl"})]
    assert result.reply is not None
    assert json.loads(result.reply.body) == {"sent": True}
