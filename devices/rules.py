"""What may be said of a device: its id, profile and tags."""

from __future__ import annotations

from collections.abc import Mapping

from edge_runtime.errors import EdgeError, nearest
from edge_runtime.events import DEVICE, GATEWAY, NAME

IOTCORE = "iotcore"
PROFILES = ("device", IOTCORE)
"""Our own contract, and that of the retired Google IoT Core."""
MAX_TAGS = 16
MAX_TAG = 128
"""Characters of a tag's value."""


def check_id(device: str) -> None:
    """Raise EdgeError for what cannot be the id of a device."""
    if not DEVICE.fullmatch(device):
        raise EdgeError(
            f"{device[:200]!r} cannot be the id of a device",
            hint="Use 1 to 128 of the characters A-Z a-z 0-9 _ . -, the first a letter or digit.",
        )
    if device == GATEWAY:
        raise EdgeError(f"'{GATEWAY}' cannot be the id of a device: it is the gateway itself", hint="Choose another.")


def check_profile(profile: str) -> None:
    """Raise EdgeError for what is no profile."""
    if profile not in PROFILES:
        raise EdgeError(f"'{profile[:40]}' is not a profile", hint=nearest(profile, PROFILES))


def check_tags(tags: Mapping[str, str]) -> None:
    """Raise EdgeError for tags that are too many, or cannot be tags."""
    if len(tags) > MAX_TAGS:
        raise EdgeError(f"{len(tags)} tags are too many", hint=f"A device has at most {MAX_TAGS}.")
    for name, value in tags.items():
        if not NAME.fullmatch(name):
            hint = "Use 1 to 64 of the characters A-Z a-z 0-9 _ . -, the first a letter or digit."
            raise EdgeError(f"{name[:80]!r} cannot be the name of a tag", hint=hint)
        if len(value) > MAX_TAG or not value.isprintable():
            raise EdgeError(
                f"the value of tag '{name}' cannot be that", hint=f"Use at most {MAX_TAG} printable characters."
            )
