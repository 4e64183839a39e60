"""`"watchdog": 30`: the board is reset where its program makes no progress for so many seconds.

Progress is a step of the core that comes to its end. A program that hangs does not feed the dog, and neither does one
whose every step fails, for want of memory for instance.
"""


def attach(core, seconds, dog=None):
    """Have the core feed a watchdog; raises ValueError."""
    if not isinstance(seconds, int) or not 1 <= seconds <= 3600:
        raise ValueError("'watchdog' must be a whole number of seconds from 1 to 3600")
    if dog is None:
        from machine import WDT

        dog = WDT(timeout=seconds * 1000)
    step = core.step

    def watched(now):
        wait = step(now)
        dog.feed()
        return min(wait, seconds * 250)

    core.step = watched
