"""What differs between boards in sleeping: deep sleep, the memory that outlives it, Wi-Fi on and off."""

import machine

from .keep import Slots


class Power:
    """This board. `wifi` is `{"ssid": ..., "key": ...}`, or None where there is no network to be switched."""

    def __init__(self, wifi=None):
        if wifi is not None and not (isinstance(wifi, dict) and "ssid" in wifi):
            raise ValueError("'duty': 'wifi' must be an object such as {\"ssid\": ..., \"key\": ...}")
        self._wifi = wifi
        self._wlan = None
        # An RP2040 has no memory that outlives a deep sleep but its flash.
        self._memory = machine.RTC().memory if hasattr(machine.RTC, "memory") else None
        self._slots = None if self._memory else Slots("/duty")

    def recall(self):
        """What was remembered before the sleep; nothing after a loss of power."""
        if hasattr(machine, "reset_cause") and machine.reset_cause() == machine.PWRON_RESET:
            return b""  # a file outlives it; for how long the board was without power, nobody knows
        return self._memory() if self._memory else self._slots.load()

    def remember(self, data):
        """Keep these bytes over a sleep."""
        if self._memory:
            self._memory(data)
        elif data or self._slots.load():
            self._slots.save(data)

    def sleep(self, ms):
        """Sleep so long; the board starts anew then."""
        machine.deepsleep(ms)

    def radio(self, on):
        """Switch the network on or off."""
        if self._wifi is None:
            return
        if self._wlan is None:
            import network

            self._wlan = network.WLAN(network.STA_IF)
        try:
            self._wlan.active(on)
            if on and not self._wlan.isconnected():
                self._wlan.connect(self._wifi["ssid"], self._wifi.get("key"))
        except (OSError, RuntimeError):  # it is joining already, or cannot: `joined` tells
            pass

    def joined(self):
        """Whether the network can be used."""
        return self._wlan is None or self._wlan.isconnected()
