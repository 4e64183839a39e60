"""DS18B20: temperature over 1-Wire, several on one wire (Maxim's data sheet).

The wire needs a resistor of 4.7 kilohm to 3.3 V.
"""

import time

from . import SensorError

_FAMILY = 0x28
_SKIP = 0xCC
_MATCH = 0x55
_CONVERT = 0x44
_READ = 0xBE
_RESET_VALUE = 0x0550  # 85 degrees: what stands there before the first conversion
_CONVERSION = 750  # ms at 12 bits


def crc8(data):
    """Maxim's CRC (x^8 + x^5 + x^4 + 1, reflected); 0 over data with its CRC behind it."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x8C if crc & 1 else 0)
    return crc


class Ds18b20:
    """On an `onewire.OneWire`; `rom` (8 bytes) where there is more than one on the wire."""

    def __init__(self, wire, rom=None, sleep_ms=None):
        if rom is not None and (len(rom) != 8 or rom[0] != _FAMILY or crc8(rom)):
            raise ValueError("that is not the number of a DS18B20")
        self._wire = wire
        self._rom = rom
        self._sleep_ms = sleep_ms or time.sleep_ms

    def start(self):
        """Begin a conversion, for who has something to do in the 750 ms that it takes."""
        self._select()
        self._wire.writebyte(_CONVERT)

    def result(self):
        """{"temperature": degrees C} of a conversion that is over."""
        self._select()
        self._wire.writebyte(_READ)
        pad = bytes(self._wire.readbyte() for _ in range(9))
        if pad == b"\xff" * 9:
            raise SensorError("the DS18B20 does not answer: look at its wires and its resistor")
        if not any(pad) or crc8(pad):  # a wire that is always low has a right CRC
            raise SensorError("what the DS18B20 sent was damaged: its check-sum is wrong")
        raw = pad[0] | pad[1] << 8
        if raw == _RESET_VALUE and pad[6] == 0x0C:
            raise SensorError("the DS18B20 has not measured: it may have lost its power")
        raw &= ~((1 << 3 - (pad[4] >> 5 & 3)) - 1)  # bits below its resolution say nothing
        return {"temperature": (raw - 65536 if raw & 0x8000 else raw) / 16}

    def read(self):
        """{"temperature": degrees C}. Takes 750 ms, in which the board does nothing else."""
        self.start()
        self._sleep_ms(_CONVERSION)
        return self.result()

    def _select(self):
        if not self._wire.reset():
            raise SensorError("nothing answers on the 1-Wire bus: look at its wires and its resistor")
        if self._rom is None:
            self._wire.writebyte(_SKIP)
        else:
            self._wire.writebyte(_MATCH)
            for byte in self._rom:
                self._wire.writebyte(byte)
