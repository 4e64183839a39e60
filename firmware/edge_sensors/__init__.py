"""Drivers of common sensors, one file each; a board gets the files that it uses.

A driver has `read()`, which returns a reading as a map from names to values (what a function under `@device.every`
returns), and raises SensorError with a text for a person. Pins and buses are handed in: MicroPython's own, or a
simulated one.
"""


class SensorError(Exception):
    """A sensor does not answer, or says what cannot be true; the text says which, and what to look at."""
