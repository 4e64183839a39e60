"""How to test an app: no gateway, no board, just pytest."""

import greenhouse
from edge.testing import Command, run


def test_the_fan_of_a_hot_board_goes_on() -> None:
    """Above 30 degrees the board itself gets the command."""
    result = run(greenhouse.overheat, "climate", {"temperature": 31.5}, device="north-1")
    assert result.commands == [Command("north-1", "fan", {"on": True})]


def test_the_fan_of_a_cool_board_goes_off() -> None:
    """Below 24 degrees the fan stops; the command is worth a minute."""
    result = run(greenhouse.cooled, "climate", {"temperature": 22.0}, device="north-1")
    assert result.commands == [Command("north-1", "fan", {"on": False}, expires=60)]


def test_the_cloud_learns_where_a_reading_comes_from() -> None:
    """The site is added, the rest stays as the board sent it."""
    result = run(greenhouse.shape, "climate", {"temperature": 25.0, "humidity": 40})
    assert result.value == {"site": "greenhouse", "temperature": 25.0, "humidity": 40}
