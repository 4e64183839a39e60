"""A greenhouse that cools itself: the boards send their climate, this app switches their fans.

Put it live with `edge deploy greenhouse.py`, change a number, and deploy it again while it runs.
"""

from edge import App, Context, Event

# One file holds one app. Its name is how the gateway calls it.
app = App("greenhouse")


# Runs for each "climate" event whose data says more than 30 degrees. The condition is looked at before the function is
# called, so events that do not match cost next to nothing.
@app.on("climate", where="temperature > 30")
def overheat(event: Event, ctx: Context) -> None:
    """Switch the fan of the board that is too hot on."""
    ctx.command(event.device, "fan", {"on": True})


# Two thresholds instead of one: between 24 and 30 degrees the fan stays as it is, so it does not flutter.
@app.on("climate", where="temperature < 24")
def cooled(event: Event, ctx: Context) -> None:
    """Switch the fan off once it has done its work."""
    # If the board is away, the command waits for it; after a minute it is no longer worth carrying out.
    ctx.command(event.device, "fan", {"on": False}, expires="60s")


# What a route returns is sent to the target "cloud", which edge.toml describes. Returning None would send nothing.
@app.route("climate", to="cloud")
def shape(event: Event) -> dict[str, object]:
    """The reading as the cloud gets it: with the name of this site beside the board's own fields."""
    return {"site": "greenhouse", **event.data}
