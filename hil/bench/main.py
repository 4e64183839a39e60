"""The board's program in scenarios: a count every so often, buttons, and a pin that obeys.

Files stand for buttons and pins: a letter appended to `/buttons` is a press, and `/pin` holds what the pin is set to.
"""

from edge_device import Device

try:
    from journal import Journal
except ImportError:  # a board on a cable keeps none
    Journal = None

device = Device.load()
settings = device.settings
if Journal is not None and "journal" in settings:
    device.observer = Journal(settings["journal"], device.core.boot)
counted = 0
pressed = 0


@device.every(seconds=settings.get("period_ms", 1000) / 1000)
def count():
    """The next number."""
    global counted
    counted += 1
    return {"n": counted}


@device.every(seconds=0.1)
def button():
    """The next press that was not told yet."""
    global pressed
    try:
        with open("/buttons") as file:
            presses = file.read()
    except OSError:
        return None
    if len(presses) <= pressed:
        return None
    pressed += 1
    return {"button": presses[pressed - 1]}


@device.on_command("pin")
def pin(args):
    """Set it: {"on": true} or {"on": false}."""
    with open("/pin", "w") as file:
        file.write("on" if args["on"] else "off")


lease = settings.get("lease")
if lease:  # on a cable: Ctrl-C is off meanwhile, so that the prompt is given back by itself
    import asyncio

    import micropython

    try:
        asyncio.run(asyncio.wait_for(device.serve(), lease))
    except TimeoutError:
        if hasattr(micropython, "kbd_intr"):
            micropython.kbd_intr(3)
else:
    device.run()
