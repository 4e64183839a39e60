"""The gateway's figures in the text form that Prometheus reads (exposition format 0.0.4).

Names follow its customs: `edge_` first, base units (seconds, bytes) and `_total` for what only grows last. What only
grows begins at 0 with each start of the gateway, which Prometheus recognises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from edge_runtime.planes.messages import AppRow, FlowRow, Status

MEDIA_TYPE = "text/plain; version=0.0.4"

DOOR_GAUGES = {
    "connections": "Connections that are open now.",
    "connected": "1 while there is a connection to the broker.",
    "ports": "Serial ports that are open now.",
    "boards": "Boards on serial lines now.",
}
DOOR_COUNTERS = {
    "messages": "Messages received.",
    "acknowledged": "Messages acknowledged, after they were durable.",
    "duplicates": "Messages that were known already.",
    "dead": "Messages that became a dead letter.",
    "refused": "Messages that were not taken: there was no room, or no permission.",
    "failed_logins": "Attempts without a right key.",
    "commands": "Commands handed to devices.",
    "busy": "Requests that were told to come back later.",
}
OTHER_COUNTER = "Figure '{}' of a front door, since the start."
QUANTILES = {"p50": "0.5", "p99": "0.99"}
STATES = ("ok", "degraded", "full")
FLOW_STATES = ("running", "waiting", "paused", "stopped")


def exposition(status: Status, apps: Sequence[AppRow]) -> str:
    """All figures of the gateway and of its apps."""
    page = _Page()
    page.gauge("edge_info", "The gateway's name and version.", 1, name=status.name, version=status.version)
    page.gauge("edge_start_time_seconds", "When the gateway was started.", status.started / 1e6)
    for state in STATES:
        page.gauge("edge_health", "1 for the state the gateway is in.", int(status.health.state == state), state=state)
    storage = status.storage
    page.gauge("edge_journal_bytes", "What the journal takes on disk.", storage.bytes)
    page.gauge("edge_journal_max_bytes", "The journal's quota; 0 for none.", storage.max_bytes)
    page.gauge("edge_journal_first_record", "The oldest record that is kept.", storage.first)
    page.gauge("edge_journal_head_record", "The newest record.", status.head)
    page.counter("edge_journal_commits_total", "Commits to the journal, an fsync each.", status.commits)
    page.counter("edge_events_total", "Events stored, of devices and functions.", status.events)
    page.gauge("edge_devices", "Registered devices.", status.devices)
    page.gauge("edge_devices_connected", "Devices that are connected now.", status.connections)
    page.gauge("edge_devices_skewed", "Devices whose clock seems to be off.", len(status.skewed))
    page.gauge("edge_commands_under_way", "Commands without an end.", status.outbox)
    page.counter(
        "edge_commands_delivered_total", "Deliveries of commands, repeats included.", status.commands_delivered
    )
    page.counter(
        "edge_commands_ended_total", "Commands that were answered, replaced, or expired.", status.commands_ended
    )
    page.gauge("edge_timers", "Events that are to come, of delays and schedules.", status.timers)
    page.counter("edge_executor_restarts_total", "Executors that died and were started again.", status.restarts)
    _doors(page, status)
    for row in status.flows:
        _flow(page, row)
    for app in apps:
        _app(page, app)
    return page.text()


def _doors(page: _Page, status: Status) -> None:
    doors: dict[str, dict[str, int]] = {
        "mqtt": msgspec.structs.asdict(status.door),
        "coap": status.coap_door,
        "http": status.http_door,
        "serial": status.serial_door,
        "broker": status.broker,
        "attached": status.attached,
    }
    for door, figures in doors.items():
        for name, value in figures.items():
            if name in QUANTILES:
                what = "From the receipt of a message to its acknowledgement, of late."
                page.gauge("edge_door_latency_seconds", what, value / 1e6, door=door, quantile=QUANTILES[name])
            elif name in DOOR_GAUGES:
                page.gauge(f"edge_door_{name}", DOOR_GAUGES[name], value, door=door)
            else:
                what = DOOR_COUNTERS.get(name) or OTHER_COUNTER.format(name)
                page.counter(f"edge_door_{name}_total", what, value, door=door)


def _flow(page: _Page, row: FlowRow) -> None:
    flow = row.flow
    for state in FLOW_STATES:
        page.gauge("edge_flow_state", "1 for the state a flow is in.", int(row.state == state), flow=flow, state=state)
    page.gauge("edge_flow_lag_records", "Records that a flow has not dealt with.", row.lag, flow=flow)
    what = "How long ago the oldest event arrived that waits for a flow."
    page.gauge("edge_flow_lag_seconds", what, row.lag_us / 1e6, flow=flow)
    held = sum(row.held.values())
    page.gauge("edge_flow_held_keys", "Devices that are held back until released.", held, flow=flow)
    page.counter("edge_flow_events_total", "Events a flow has worked on.", row.events, flow=flow)
    page.counter("edge_flow_effects_total", "Effects of a flow.", row.effects, flow=flow)
    page.counter("edge_flow_dead_letters_total", "Dead letters of a flow.", row.dead_letters, flow=flow)
    page.counter("edge_flow_retries_total", "Events that a flow has tried again.", row.retries, flow=flow)
    for quantile, value in (("0.5", row.p50), ("0.99", row.p99)):
        what = "Of a flow's batch, its commit included, of late."
        page.gauge("edge_flow_batch_seconds", what, value / 1e6, flow=flow, quantile=quantile)
    if row.route is not None:
        route = row.route
        page.counter("edge_route_delivered_total", "Events a target has accepted.", route.delivered, flow=flow)
        page.counter("edge_route_repeated_total", "Of those, sent before without an answer.", route.repeated, flow=flow)
        page.counter("edge_route_rejected_total", "Events a target has refused.", route.rejected, flow=flow)
        page.counter("edge_route_failed_total", "Events a route's function failed on.", route.failed, flow=flow)


def _app(page: _Page, row: AppRow) -> None:
    app = row.app
    page.gauge("edge_app_info", "The live version of an app.", 1, app=app, version=row.version)
    page.gauge("edge_app_healthy", "1 while an app runs as it should.", int(row.health == "ok"), app=app)
    page.gauge("edge_app_instances", "Instances of an app that run now.", row.instances, app=app)
    page.counter("edge_app_calls_total", "Events handed to an app's functions.", row.stats.calls, app=app)
    what = "Time inside the sandbox."
    page.counter("edge_app_sandbox_seconds_total", what, row.stats.micros / 1e6, app=app)
    for reason, number in row.stats.failures.items():
        page.counter("edge_app_failures_total", "Calls that failed, by reason.", number, app=app, reason=reason)
    for name, metric in row.metrics.items():
        labels = {"app": app, "metric": name}
        page.gauge("edge_app_metric", "What a function has measured last (ctx.metric).", metric.last, **labels)
        page.counter("edge_app_metric_count_total", "How often it has measured.", metric.count, **labels)
        # Not a counter: what functions measure may be below zero.
        page.gauge("edge_app_metric_sum", "All that it has measured, added up.", metric.sum, **labels)


class _Page:
    """Samples under their metric's head; those of one metric stand together, as the format wants them."""

    def __init__(self) -> None:
        self._metrics: dict[str, list[str]] = {}

    def gauge(self, metric: str, what: str, value: float, /, **labels: str) -> None:
        self._add(metric, "gauge", what, value, labels)

    def counter(self, metric: str, what: str, value: float, /, **labels: str) -> None:
        self._add(metric, "counter", what, value, labels)

    def _add(self, metric: str, kind: str, what: str, value: float, labels: Mapping[str, str]) -> None:
        lines = self._metrics.setdefault(metric, [f"# HELP {metric} {what}", f"# TYPE {metric} {kind}"])
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{metric}{{{inside}}} {value}" if inside else f"{metric} {value}")

    def text(self) -> str:
        return "\n".join(line for lines in self._metrics.values() for line in lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
