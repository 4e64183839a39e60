"""Joins the Wi-Fi of the settings, `"settings": {"wifi": {"ssid": ..., "password": ...}}`, before the program starts.

It does not wait for it: the program starts meanwhile, and tries its link until there is a network. A network that was
lost is joined again.
"""

import json
import sys


def _join():
    try:
        station.connect(wifi["ssid"], wifi.get("password"))
    except OSError as error:
        print("edge: no Wi-Fi:", error)


def _look(_timer):
    if station.active() and not station.isconnected() and station.status() <= 0:  # neither joining nor asleep
        _join()


try:
    import network

    with open("/edge.json") as file:
        wifi = json.load(file).get("settings", {}).get("wifi")
    if wifi:
        station = network.WLAN(network.STA_IF)
        station.active(True)
        if not station.isconnected():
            _join()
        if sys.platform == "rp2":  # others look for their network by themselves
            from machine import Timer

            timer = Timer(period=15000, mode=Timer.PERIODIC, callback=_look)
except Exception as error:  # whatever is wrong, the program starts
    print("edge: no Wi-Fi:", type(error).__name__, error)
