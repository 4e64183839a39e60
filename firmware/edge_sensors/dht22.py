"""DHT22 (AM2302): temperature and humidity over one wire, told by the length of pulses (Aosong's data sheet).

The wire needs a resistor of 4.7 to 10 kilohm to 3.3 V. More than one reading in 2 s is too many for the sensor.
"""

import time

from . import SensorError

_ONE = 48  # microseconds: a 0 is high for 26 to 28, a 1 for 70
_LONGEST = 200


def decode(pulses):
    """(temperature in 0.1 degrees C, humidity in 0.1 %) of 40 lengths in microseconds; raises SensorError."""
    if len(pulses) != 40:
        raise SensorError("the DHT22 sent " + str(len(pulses)) + " bits, not 40: look at its wires and its resistor")
    octets = [0] * 5
    for at, length in enumerate(pulses):
        octets[at >> 3] = octets[at >> 3] << 1 | (length > _ONE)
    if sum(octets[:4]) & 255 != octets[4]:
        raise SensorError("what the DHT22 sent was damaged: its check-sum is wrong")
    temperature = (octets[2] & 127) << 8 | octets[3]
    if octets[2] & 128:
        temperature = -temperature
    humidity = octets[0] << 8 | octets[1]
    if humidity > 1000 or not -400 <= temperature <= 800:
        raise SensorError("the DHT22 sent what it cannot measure")
    return temperature, humidity


class Dht22:
    """On a `machine.Pin`; `pulse(pin, level, timeout)` is `machine.time_pulse_us` or does the same."""

    def __init__(self, pin, pulse=None, sleep_ms=None):
        self._pin = pin
        if pulse is None:
            from machine import time_pulse_us as pulse
        self._pulse = pulse
        self._sleep_ms = sleep_ms or time.sleep_ms
        self._pulses = [0] * 42  # the line before the answer, the answer, and the bits

    def read(self):
        """{"temperature": degrees C, "humidity": %}. Takes 25 ms; interrupts at a bad moment cost a reading."""
        pin = self._pin
        pin.init(pin.OPEN_DRAIN)
        pin.value(0)
        self._sleep_ms(2)  # at least 1 ms
        pin.value(1)
        pulses = self._pulses  # a list that grew would have the memory tidied up in the middle of a bit
        count = 0
        while count < len(pulses):
            length = self._pulse(pin, 1, _LONGEST)
            if length < 0:
                break
            pulses[count] = length
            count += 1
        if not count:
            raise SensorError("the DHT22 does not answer: look at its wires and its resistor")
        temperature, humidity = decode(pulses[max(0, count - 40) : count])
        return {"temperature": temperature / 10, "humidity": humidity / 10}
