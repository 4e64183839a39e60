"""A small physical model of a greenhouse: the sun heats it, the walls lose heat, a fan changes the air."""

import math

_OUTSIDE = 16.0  # degrees C
_SUN = 1.32  # degrees a second that the sun brings at noon: 38 degrees at rest with the fan off
_WALLS = 0.06  # of the difference to outside, lost each second
_FAN = 0.2  # the same, through the fan: 21 degrees at rest with the fan on
_STEP = 0.1  # seconds; the equation is stiff enough for no less


class House:
    """The state of one greenhouse; the same seed gives the same weather. `speed` makes its time run faster."""

    def __init__(self, seed, speed=1):
        self._random = seed * 2654435761 & 0xFFFFFFFF or 1
        self._speed = speed
        self._clock = 0.0
        self._cloud = 0.0
        self._air = 22.0 + 4.0 * self._chance()
        self.fan = False

    def _chance(self):
        """The next number from 0 to 1 of a xorshift generator: alike on every build."""
        x = self._random
        x ^= x << 13 & 0xFFFFFFFF
        x ^= x >> 17
        x ^= x << 5 & 0xFFFFFFFF
        self._random = x
        return x / 4294967296

    def advance(self, seconds):
        """Let so many seconds of the board's time pass."""
        left = seconds * self._speed
        while left > 1e-6:
            step = min(_STEP, left)
            left -= step
            self._clock += step
            self._cloud += step * 0.2 * (self._chance() - 0.5 - self._cloud)
            sun = _SUN * (1.0 + 0.04 * math.sin(self._clock / 40) + 0.1 * self._cloud)
            loss = (_WALLS + (_FAN if self.fan else 0.0)) * (self._air - _OUTSIDE)
            self._air += step * (sun - loss)

    def temperature(self):
        """Degrees C as a DS18B20 gives them, in sixteenths."""
        return round(self._air * 16) / 16

    def humidity(self):
        """Relative humidity in per cent, in halves: warm air is drier air."""
        return round(2 * (95.0 - 1.6 * (self._air - 10.0) + 2 * self._cloud)) / 2
