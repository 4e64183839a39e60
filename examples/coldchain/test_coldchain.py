"""What the cold chain's functions do, without a gateway."""

from coldchain import left_open, minute, silent, too_warm
from edge.testing import Command, Emitted, pane, panes


def readings(*values, every=20, device="room-1"):
    """Temperatures, so many seconds apart."""
    return [(every * n, "climate", {"temperature": value}, device) for n, value in enumerate(values)]


def test_a_minute_is_its_mean_over_time_and_its_peaks():
    """Each value counts as long as it was the newest."""
    [first, *_] = panes(minute, readings(-20, -18, -16, -17, -18))
    assert first.values["highest"] == -16
    assert first.values["mean"] == -18
    result = pane(minute, first.values, key="room-1", end=first.end)
    assert [emitted.kind for emitted in result.emitted] == ["climate.minute"]


def test_readings_from_a_spool_change_a_minute_that_was_told():
    """What comes within the lateness makes another pane."""
    late = [((5, 100), "climate", {"temperature": -2}, "room-1")]
    found = panes(minute, [*readings(-20, -20, -20, -20, -20), *late])
    told = [(p.start, p.timing, p.values["highest"]) for p in found]
    assert told[0][1:] == ("on_time", -20)
    assert told[-1] == (told[0][0], "late", -2)


def test_the_alarm_is_for_ten_minutes_and_not_for_a_door():
    """The function alone, on panes made up."""
    assert pane(too_warm, {"mean": -14.0}, key="room-1").commands == [
        Command("room-1", "alarm", {"on": True, "mean": -14.0}, key="alarm")
    ]
    assert pane(too_warm, {"mean": -18.0}).commands == []


def test_a_room_that_falls_silent_and_comes_back():
    """Absence is told once, and its end."""
    [gone, back] = panes(silent, [*readings(-20, -20), (400, "climate", {"temperature": -19}, "room-1")])
    assert pane(silent, gone.values, start=gone.start).emitted == [Emitted("room.silent", {"last": gone.start})]
    assert [e.kind for e in pane(silent, back.values).emitted] == ["room.back"]


def test_a_door_and_then_warmth():
    """In this order, close to each other, and warm enough."""
    door = [(0, "door", {"open": True}, "room-1")]
    assert len(panes(left_open, [*door, (200, "climate", {"temperature": -5}, "room-1")])) == 1
    assert panes(left_open, [*door, (400, "climate", {"temperature": -5}, "room-1")]) == []
    assert panes(left_open, [*door, (200, "climate", {"temperature": -15}, "room-1")]) == []
