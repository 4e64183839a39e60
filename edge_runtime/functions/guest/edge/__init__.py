"""Functions for the edge gateway: what an app imports.

    from edge import App

    app = App("greenhouse")

    @app.on("climate", where="temperature > 30")
    def overheat(event, ctx):
        ctx.command(event.device, "fan", {"on": True})

The same package runs in the gateway's sandbox and on your machine, where `edge.testing` tests an app with pytest.
"""

from edge._app import App, AppError, HttpTrigger, OnTrigger, RouteTrigger, ScheduleTrigger, StreamTrigger
from edge._context import Context, NotGranted
from edge._event import Event
from edge._http import HttpError, Response
from edge._reply import Reply
from edge._state import State
from edge._streams import (
    Aggregate,
    Pane,
    Step,
    collect,
    count,
    deduplicated,
    delta,
    distinct,
    enriched,
    filtered,
    first,
    flattened,
    fold,
    last,
    mapped,
    maximum,
    mean,
    minimum,
    quantile,
    rate,
    sampled,
    split,
    throttled,
    time_mean,
    top,
    total,
    variance,
)

__all__ = [
    "Aggregate",
    "App",
    "AppError",
    "Context",
    "Event",
    "HttpError",
    "HttpTrigger",
    "NotGranted",
    "OnTrigger",
    "Pane",
    "Reply",
    "Response",
    "RouteTrigger",
    "ScheduleTrigger",
    "State",
    "Step",
    "StreamTrigger",
    "collect",
    "count",
    "deduplicated",
    "delta",
    "distinct",
    "enriched",
    "filtered",
    "first",
    "flattened",
    "fold",
    "last",
    "mapped",
    "maximum",
    "mean",
    "minimum",
    "quantile",
    "rate",
    "sampled",
    "split",
    "throttled",
    "time_mean",
    "top",
    "total",
    "variance",
]
