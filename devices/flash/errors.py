"""What can go wrong between a blank board and its first event, as the person at the cable is told."""

from __future__ import annotations

from edge_runtime.errors import EdgeError


class FlashError(EdgeError):
    """A step has failed; what was done before stands, and the same command goes on from there."""


class NoAnswer(FlashError):
    """Nobody speaks MicroPython on that port."""


def busy(port: str) -> FlashError:
    """Somebody else has the port."""
    return FlashError(
        f"another program has {port}",
        hint="Close the terminal that is open on it. If it is the gateway's ([serial.NAME] in edge.toml), stop that.",
    )


def forbidden(port: str) -> FlashError:
    """The port belongs to a group that the user is not in."""
    return FlashError(
        f"you may not open {port}",
        hint="Serial ports belong to the group dialout: sudo usermod -aG dialout $USER, then log in again.",
    )


def gone(port: str) -> FlashError:
    """There is no such port, or not any more."""
    return FlashError(
        f"nothing is connected at {port}",
        hint="Plug the board in again (some cables carry power alone), and give the same command: it goes on.",
    )


def missing_tool(name: str) -> FlashError:
    """esptool or mpremote is not installed."""
    return FlashError(f"{name} is not installed", hint="pip install 'edge-runtime[flashing]'")
