"""What `edge status` says to a person: a sentence for each part of the gateway, and a table of its flows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from rich.table import Table

from edge_runtime.cli.console import count, escaped, table
from edge_runtime.planes.messages import FlowRow, RouteCounts, Status


def sentences(found: Status) -> Iterator[str]:
    """One line each, with mark-up."""
    yield f"[bold]{found.name}[/] (edge {found.version}), boards connect to mqtt://{found.mqtt}"
    yield (
        f"{found.connections} of {found.devices} devices connected, {found.events} events since the start,"
        f" {count(found.outbox, 'command')} under way"
    )
    storage = found.storage
    quota = f" of {storage.max_bytes / 2**20:.0f}" if storage.max_bytes else ""
    yield f"Journal: records {storage.first} to {found.head}, {storage.bytes / 2**20:.1f}{quota} MiB"
    colour = {"ok": "green", "full": "bold red"}.get(found.health.state, "yellow")
    yield f"Health: [{colour}]{escaped(found.health.words)}[/]"
    yield from _doors(found)
    if found.timers:
        yield f"Timers: {found.timers} events are to come"
    stops = found.stops
    yield (
        f"Functions: {found.calls} calls, {stops.error} failed, {stops.timeout} timed out;"
        f" instances ended: {stops.on_demand} on demand, {stops.implicit} not needed;"
        f" executors restarted: {found.restarts}"
    )


def _doors(found: Status) -> Iterator[str]:
    door = msgspec.structs.asdict(found.door)
    yield _door("Front door", door, f"{door['duplicates']} repeated", f"{door['refused']} refused")
    if found.mqtt_more:
        yield f"The MQTT door also listens on {', '.join(found.mqtt_more)}"
    broker = found.broker
    if broker and (broker["connections"] or broker["published"]):
        given_up = sum(number for name, number in broker.items() if name.startswith("dropped") or name == "expired")
        yield (
            f"MQTT broker: {broker['connections']} programs, {broker['published']} messages published,"
            f" {broker['delivered']} delivered, {broker['refused']} refused, {given_up} given up"
        )
    if found.serial_door:
        serial = found.serial_door
        repeated = f"{serial['damaged']} pieces damaged, {serial['repeats']} repeated"
        name = f"Serial door: {serial['boards']} boards on {serial['ports']} ports"
        yield _door(name, serial, repeated, f"{serial['refused']} put off", ", ")
    if found.attached:
        there = found.attached
        yield (
            f"Broker that is there already: {'attached' if there['connected'] else '[red]not connected[/]'},"
            f" {there['messages']} messages, {there['acknowledged']} acknowledged"
        )
    if found.coap:
        coap = found.coap_door
        put_off = f"{coap['refused'] + coap['busy']} put off"
        yield _door(f"CoAP door, coap://{found.coap}", coap, f"{coap['repeats']} repeated", put_off)
    if found.http_door:
        http = found.http_door
        put_off = f"{http['refused'] + http['busy']} put off"
        yield _door("HTTP door of devices", http, f"{http['duplicates']} repeated", put_off)


def _door(name: str, figures: Mapping[str, int], repeated: str, put_off: str, between: str = ": ") -> str:
    return (
        f"{name}{between}{figures['messages']} messages, {figures['acknowledged']} acknowledged"
        f" (p50 {figures['p50'] / 1e3:.2f} ms, p99 {figures['p99'] / 1e3:.2f} ms), {repeated},"
        f" {figures['dead']} dead, {put_off}, {figures['failed_logins']} failed logins"
    )


def flows(found: Sequence[FlowRow]) -> Table:
    """Where each stands, and what it has done."""
    rows = table("flow", "state", "events", "effects", "dead", "lag", "p50 / p99 ms")
    for row in found:
        times = f"{row.p50 / 1e3:.2f} / {row.p99 / 1e3:.2f}"
        counts = map(str, (row.events, row.effects, row.dead_letters, row.lag))
        rows.add_row(row.flow, row.state, *counts, times)
    return rows


def routes(found: Sequence[FlowRow]) -> Iterator[str]:
    """What has become of the deliveries of those that are routes."""
    yield from (f"  [bold]{row.flow}[/] {_route(row.route)}" for row in found if row.route is not None)


def _route(counts: RouteCounts) -> str:
    repeated = f", {counts.repeated} repeated" if counts.repeated else ""
    rejected = f", {counts.rejected} rejected" if counts.rejected else ""
    return f"{counts.delivered} delivered{repeated}{rejected}"
