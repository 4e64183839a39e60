"""BME280: temperature, humidity and pressure over I2C, in the integers of Bosch's data sheet (BST-BME280-DS002).

A BMP280, which has no humidity, has another chip id and is told apart.
"""

import struct
import time

from . import SensorError

_ID = 0xD0
_CHIP = 0x60
_CTRL_HUM = 0xF2
_STATUS = 0xF3
_CTRL_MEAS = 0xF4
_DATA = 0xF7
_ONCE = 0x25  # temperature and pressure once each, forced mode
_MEASURING = 8
_SKIPPED = 0x80000


class Bme280:
    """On a `machine.I2C` at `address` (0x76, or 0x77 where its SDO is high)."""

    def __init__(self, i2c, address=0x76, sleep_ms=None):
        self._i2c = i2c
        self._address = address
        self._sleep_ms = sleep_ms or time.sleep_ms
        self._t = None

    def read(self):
        """{"temperature": degrees C, "humidity": %, "pressure": Pa}. Takes 10 ms; the sensor sleeps in between."""
        try:
            if self._t is None:
                self._begin()
            self._write(_CTRL_HUM, 1)
            self._write(_CTRL_MEAS, _ONCE)
            for _ in range(10):  # once each: 9.3 ms at most (section 9.1)
                self._sleep_ms(5)
                if not self._registers(_STATUS, 1)[0] & _MEASURING:
                    break
            else:
                raise SensorError("the BME280 does not finish measuring")
            data = self._registers(_DATA, 8)
        except OSError as error:
            self._t = None  # it may have lost its power
            text = "no BME280 answers on I2C at " + hex(self._address) + " (" + str(error) + "): look at its wires"
            raise SensorError(text) from None
        raw_p = data[0] << 12 | data[1] << 4 | data[2] >> 4
        raw_t = data[3] << 12 | data[4] << 4 | data[5] >> 4
        if raw_t == _SKIPPED or raw_p == _SKIPPED:
            raise SensorError("the BME280 has not measured: it may have lost its power")
        fine = self.fine(raw_t)
        return {
            "temperature": (fine * 5 + 128 >> 8) / 100,
            "humidity": self.humidity(data[6] << 8 | data[7], fine) / 1024,
            "pressure": self.pressure(raw_p, fine) / 256,
        }

    def _begin(self):
        chip = self._registers(_ID, 1)[0]
        if chip != _CHIP:
            raise SensorError("what answers at " + hex(self._address) + " is no BME280: its chip id is " + hex(chip))
        first = self._registers(0x88, 26)
        second = self._registers(0xE1, 7)
        self.calibrate(first, second)

    def calibrate(self, first, second):
        """Take the trimming parameters (section 4.2.2): registers 0x88 to 0xA1, and 0xE1 to 0xE7."""
        values = struct.unpack("<HhhHhhhhhhhh", first[:24])
        self._t = values[:3]
        self._p = values[3:]
        h2, h3 = struct.unpack("<hB", second[:3])
        h4 = struct.unpack("b", second[3:4])[0] << 4 | second[4] & 15
        h5 = struct.unpack("b", second[5:6])[0] << 4 | second[4] >> 4
        self._h = (first[25], h2, h3, h4, h5, struct.unpack("b", second[6:7])[0])

    def fine(self, raw):
        """The temperature that the other two are compensated with (t_fine, section 4.2.3)."""
        t1, t2, t3 = self._t
        a = ((raw >> 3) - (t1 << 1)) * t2 >> 11
        b = (((raw >> 4) - t1) * ((raw >> 4) - t1) >> 12) * t3 >> 14
        return a + b

    def pressure(self, raw, fine):
        """In 1/256 Pa, in 64 bits as in section 4.2.3."""
        p1, p2, p3, p4, p5, p6, p7, p8, p9 = self._p
        a = fine - 128000
        b = a * a * p6 + (a * p5 << 17) + (p4 << 35)
        a = (a * a * p3 >> 8) + (a * p2 << 12)
        a = ((1 << 47) + a) * p1 >> 33
        if not a:
            raise SensorError("the BME280's trimming parameters cannot be true")
        # The data sheet divides towards zero; Python's // goes down.
        above = ((1048576 - raw << 31) - b) * 3125
        p = above // a if above >= 0 else -(-above // a)
        a = p9 * (p >> 13) * (p >> 13) >> 25
        b = p8 * p >> 19
        return (p + a + b >> 8) + (p7 << 4)

    def humidity(self, raw, fine):
        """In 1/1024 %, from 0 to 100 % (section 4.2.3)."""
        h1, h2, h3, h4, h5, h6 = self._h
        v = fine - 76800
        a = (raw << 14) - (h4 << 20) - h5 * v + 16384 >> 15
        b = (((v * h6 >> 10) * ((v * h3 >> 11) + 32768) >> 10) + 2097152) * h2 + 8192 >> 14
        v = a * b
        v -= ((v >> 15) * (v >> 15) >> 7) * h1 >> 4
        return min(max(v, 0), 419430400) >> 12

    def _registers(self, register, number):
        return self._i2c.readfrom_mem(self._address, register, number)

    def _write(self, register, value):
        self._i2c.writeto_mem(self._address, register, bytes((value,)))
