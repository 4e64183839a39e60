"""The temperature of the chip itself: several degrees above the air's, but every board has it."""

import sys

from . import SensorError


class Chip:
    """Of an ESP32 (any) or RP2040. `modules` takes the place of importing `esp32` and `machine`."""

    def __init__(self, platform=None, modules=None):
        self._platform = platform or sys.platform
        self._module = (modules or {}).get("esp32" if self._platform == "esp32" else "machine")

    def read(self):
        """{"temperature": degrees C}."""
        if self._platform == "esp32":
            esp32 = self._module or __import__("esp32")
            if hasattr(esp32, "mcu_temperature"):  # C3, S2, S3
                return {"temperature": esp32.mcu_temperature()}
            return {"temperature": round((esp32.raw_temperature() - 32) / 1.8, 1)}  # it counts in Fahrenheit
        if self._platform == "rp2":
            machine = self._module or __import__("machine")
            volts = machine.ADC(4).read_u16() * 3.3 / 65535
            return {"temperature": round(27 - (volts - 0.706) / 0.001721, 1)}  # RP2040 data sheet, section 4.9.5
        raise SensorError("this chip (" + self._platform + ") has no thermometer that is known here")
