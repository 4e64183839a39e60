"""Raises an alarm when a board falls silent, marks each morning, and lets somebody try the alarm."""

from __future__ import annotations

from typing import Any

from edge import App, Context, Event

app = App("watchdog")

PATIENCE = "15m"
"""How long a board may be silent."""


@app.on("climate")
def reading(event: Event, ctx: Context) -> None:
    """Each reading puts the alarm off."""
    ctx.defer("silent", {"last": event.time}, after=PATIENCE, key="silence")


@app.on("silent")
def alarm(event: Event, ctx: Context) -> None:
    """No reading has come in time."""
    ctx.emit("alarm", {"what": "silent", "last": event.data["last"]})


@app.schedule(cron="0 6 * * *", tz="Europe/Berlin", missed="once")
def morning(event: Event, ctx: Context) -> None:
    """At six, and once for all the mornings at which the gateway was off."""
    ctx.emit("day", {"due": event.data["due"]})


@app.http("/alarms", methods=["POST"])
def try_alarm(event: Event, ctx: Context) -> dict[str, Any]:
    """Somebody tries whether alarms arrive."""
    ctx.emit("alarm", {"what": "test", "by": event.data["headers"].get("user-agent", "")})
    return {"sent": True}
