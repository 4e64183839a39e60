"""A cold chain: what windows, absences and sequences are good for. Deploy it with: edge deploy coldchain.py

Boards in cold rooms send `climate` {"temperature": ...} every few seconds and `door` {"open": true|false}.
"""

from edge import App, maximum, mean, quantile, time_mean

app = App("coldchain")


@app.window(
    "climate",
    every="1m",
    lateness="5m",
    compute={
        "mean": time_mean("temperature"),
        "highest": maximum("temperature"),
        "p95": quantile("temperature", 0.95),
    },
)
def minute(pane, ctx):
    """What the records need: a line a minute and room, however its radio was."""
    ctx.emit("climate.minute", {"until": pane.end, "late": pane.timing == "late", **pane.values})


@app.window("climate", every="1m", size="10m", compute={"mean": mean("temperature")})
def too_warm(pane, ctx):
    """Ten minutes that are too warm on the whole: a door that is opened for a moment does not count."""
    if pane.values["mean"] > -15:
        ctx.command(pane.key, "alarm", {"on": True, "mean": pane.values["mean"]}, key="alarm")


@app.absent("climate", after="2m", back=True)
def silent(pane, ctx):
    """A room that is not heard of, and when it is heard of again."""
    ctx.emit("room.silent" if pane.values["absent"] else "room.back", {"last": pane.start})


@app.sequence("door", where="open == true", then="climate", then_where="temperature > -10", within="5m")
def left_open(pane, ctx):
    """A door was opened, and then it became warm."""
    ctx.command(pane.key, "buzzer", {"on": True}, key="buzzer")
