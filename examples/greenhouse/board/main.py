"""The greenhouse's board: a reading of the climate every second, and a fan that obeys.

Flash it as `main.py` beside the package `edge_device` and a settings file `/edge.json`. The greenhouse itself is a
model (`house.py`); on a board with a sensor and a relay, those two lines are the ones to change.
"""

from edge_device import Device
from house import House
from journal import Journal

device = Device.load()
settings = device.settings
period = settings.get("period_ms", 1000) / 1000
left = settings.get("readings", 0) or -1  # how many readings to take; below zero there is no end
house = House(settings.get("seed", 1), settings.get("speed", 1))
if "journal" in settings:
    device.observer = Journal(settings["journal"], device.core.boot)


@device.every(seconds=period, kind="climate")
def climate():
    """Read the sensors."""
    global left
    if left == 0:
        return None
    left -= 1
    house.advance(period)
    return {"temperature": house.temperature(), "humidity": house.humidity(), "fan": house.fan}


@device.on_command("fan")
def fan(args):
    """Switch the fan: {"on": true} or {"on": false}."""
    was = house.fan
    house.fan = bool(args["on"])
    return {"was": was}


device.run()
