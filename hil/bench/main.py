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


async def serve(lease):
    """On a cable Ctrl-C is off while the program runs: the prompt is given back when that is asked for, or in time."""
    running = asyncio.create_task(device.serve())
    try:
        await asyncio.wait_for(done.wait(), lease)
        await asyncio.sleep(1)  # the reply goes out
    except asyncio.TimeoutError:  # noqa: UP041 (MicroPython has no other)
        pass
    running.cancel()
    if hasattr(micropython, "kbd_intr"):
        micropython.kbd_intr(3)


if "lease" in settings:
    import asyncio

    import micropython

    done = asyncio.Event()
    device.on_command("prompt")(lambda args: done.set())
    asyncio.run(serve(settings["lease"]))
else:
    device.run()
