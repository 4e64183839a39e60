"""What the gateway does with button `a` in scenarios: it has the board that it was pressed on set its pin."""

from edge import App

app = App("bench")


@app.on("button", where="button == 'a'")
def switch(event, ctx):
    """An event in, a command out."""
    ctx.command(event.device, "pin", {"on": True}, expires="2m")
