"""The instrumentation plane: how the gateway is, in figures and in one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from edge_runtime.ingress.coap import CoapFrontDoor
from edge_runtime.ingress.http import DeviceHttp
from edge_runtime.ingress.mqtt import MqttFrontDoor
from edge_runtime.ingress.serial import SerialFrontDoor
from edge_runtime.planes.messages import Door, FlowRow, Health

FULL = "storage full: acknowledgements stopped, boards keep their readings"


def health(storing: bool, flows: Sequence[FlowRow], broken: Mapping[str, str], due: str = "") -> Health:
    """`storing`: the newest message could be stored. `broken`: apps that do not run, and why.

    `due`: why timers that are due do not fire.
    """
    reasons = [] if storing else [FULL]
    reasons += [f"timers that are due wait: {due}"] * bool(due)
    reasons += [f"app {app} does not run: {why}" for app, why in sorted(broken.items())]
    for row in flows:
        parked = sum(row.held.values())
        if row.state == "stopped":
            reasons.append(f"flow {row.flow} has stopped at an event that fails")
        elif row.state == "waiting":
            reasons.append(f"flow {row.flow} waits: {row.waiting}")
        if parked:
            reasons.append(f"flow {row.flow} holds {parked} of its keys back")
    return Health("full" if not storing else "degraded" if reasons else "ok", reasons)


def door(front: MqttFrontDoor) -> Door:
    """The front door's figures."""
    counters = msgspec.structs.asdict(front.counters)
    return Door(front.latency.quantile(0.5), front.latency.quantile(0.99), **counters)


def serial_door(front: SerialFrontDoor) -> dict[str, int]:
    """The serial door's figures."""
    latency = {"p50": front.latency.quantile(0.5), "p99": front.latency.quantile(0.99)}
    return {**msgspec.structs.asdict(front.figures()), **latency}


def http_door(front: DeviceHttp) -> dict[str, int]:
    """The figures of the HTTP door of devices."""
    latency = {"p50": front.latency.quantile(0.5), "p99": front.latency.quantile(0.99)}
    return {**msgspec.structs.asdict(front.counters), **latency}


def coap_door(front: CoapFrontDoor) -> dict[str, int]:
    """The CoAP door's figures."""
    latency = {"p50": front.latency.quantile(0.5), "p99": front.latency.quantile(0.99)}
    return {**msgspec.structs.asdict(front.counters), **latency, "repeats": front.layer.repeats}
