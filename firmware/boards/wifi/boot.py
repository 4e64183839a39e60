"""Joins the Wi-Fi of the settings, `"settings": {"wifi": {"ssid": ..., "password": ...}}`, before the program starts.

It does not wait for it: the program starts meanwhile, and tries its link until there is a network.
"""

import json

try:
    import network

    with open("/edge.json") as file:
        wifi = json.load(file).get("settings", {}).get("wifi")
    if wifi:
        station = network.WLAN(network.STA_IF)
        station.active(True)
        if not station.isconnected():
            station.connect(wifi["ssid"], wifi.get("password"))
except (ImportError, OSError, ValueError, KeyError) as error:
    print("edge: no Wi-Fi:", error)
