"""An analogue input with a calibration: what the converter says, and what that means, at two or more points."""

from . import SensorError


class Adc:
    """On a `machine.ADC` (or what has `read_u16`). `points` are (raw, value), raw from 0 to 65535 and rising.

    Between two points the line through them counts, and beyond the ends the line of the last two. Raw values below
    `least` or above `most` mean a broken wire.
    """

    def __init__(self, adc, name="value", points=((0, 0), (65535, 1)), samples=8, least=0, most=65535):
        if len(points) < 2 or any(points[i][0] >= points[i + 1][0] for i in range(len(points) - 1)):
            raise ValueError("points are two or more, with rising raw values")
        if samples < 1:
            raise ValueError("samples are at least 1")
        self._adc = adc
        self._name = name
        self._points = points
        self._samples = samples
        self._least = least
        self._most = most

    def read(self):
        """{name: value}, of the mean of the samples without the quarter at either end: what spikes is left out."""
        raws = sorted(self._adc.read_u16() for _ in range(self._samples))
        out = len(raws) // 4
        kept = raws[out : len(raws) - out]
        raw = sum(kept) / len(kept)
        if not self._least <= raw <= self._most:
            raise SensorError("the input '" + self._name + "' is at " + str(round(raw)) + ": look at its wires")
        return {self._name: self.value(raw)}

    def value(self, raw):
        """What a raw value means."""
        points = self._points
        at = 1
        while at < len(points) - 1 and raw > points[at][0]:
            at += 1
        x0, y0 = points[at - 1]
        x1, y1 = points[at]
        return y0 + (raw - x0) * (y1 - y0) / (x1 - x0)
