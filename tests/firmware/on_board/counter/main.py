"""A board's program that takes a given number of readings and no more; `double` is its only command."""

from edge_device import Device
from journal import Journal

device = Device.load()
settings = device.settings
device.observer = Journal(settings["journal"], device.core.boot)
taken = 0


@device.every(seconds=settings["period_ms"] / 1000)
def count():
    """The next number, as long as there are any."""
    global taken
    if taken == settings["readings"]:
        return None
    taken += 1
    if taken % 100 == 0:
        print("taken", taken)
    return {"n": taken}


@device.on_command("double")
def double(args):
    return {"n": 2 * args["n"]}


device.run()
