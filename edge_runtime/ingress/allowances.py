"""Which device may send how fast: rules by its id and its tags, the first that fits counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

from edge_runtime.ingress.pace import Allowance


def fits(device: str, patterns: Sequence[str]) -> bool:
    """Whether an id is one of these, in which `*` and `?` stand for others; none at all fit every id."""
    return not patterns or any(fnmatchcase(device, pattern) for pattern in patterns)


class PaceRule(msgspec.Struct, frozen=True):
    """What some devices may."""

    devices: Sequence[str]
    tags: Mapping[str, str]
    """Those that a device must have."""
    allowance: Allowance

    def fits(self, device: str, tags: Mapping[str, str]) -> bool:
        """Whether a device with these tags is one of them."""
        return fits(device, self.devices) and all(tags.get(name) == value for name, value in self.tags.items())


def allowance_of(
    rules: Sequence[PaceRule], others: Allowance, tags_of: Callable[[str], Mapping[str, str]]
) -> Callable[[str], Allowance]:
    """For `Pace`: that of the first rule which a device fits, or that of all others."""

    def find(device: str) -> Allowance:
        tags = tags_of(device) if rules else {}
        return next((rule.allowance for rule in rules if rule.fits(device, tags)), others)

    return find
