"""The tree of subscriptions: which of them a topic concerns, without asking each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from edge_runtime.proto.mqtt.topics import shared

if TYPE_CHECKING:
    from edge_runtime.ingress.broker.session import Session

AT_SUBSCRIBE, IF_NEW, NEVER = range(3)
"""The retain handling (MQTT 5.0 section 3.8.3.1)."""


class Subscription(msgspec.Struct):
    """One topic filter of one session."""

    session: Session
    pattern: str
    options: int
    """As in the SUBSCRIBE."""
    identifier: int = 0

    @property
    def qos(self) -> int:
        """The most that was granted."""
        return self.options & 3

    @property
    def no_local(self) -> bool:
        """What the session itself publishes does not come back."""
        return bool(self.options & 4)

    @property
    def retain_as_published(self) -> bool:
        """The retain flag goes on to the subscriber."""
        return bool(self.options & 8)

    @property
    def retain_handling(self) -> int:
        """When retained messages are sent."""
        return self.options >> 4 & 3


class _Node:
    __slots__ = ("children", "direct", "groups")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.direct: dict[str, Subscription] = {}
        self.groups: dict[str, dict[str, Subscription]] = {}
        """Shared subscriptions: by the group's name, then by session."""

    @property
    def empty(self) -> bool:
        return not (self.children or self.direct or self.groups)


class Tree:
    """All subscriptions. Filters and topics have been checked before."""

    def __init__(self) -> None:
        self._root = _Node()
        self.count = 0

    def add(self, subscription: Subscription) -> None:
        """Add it, or put it in the place of its session's with the same filter."""
        group, pattern = shared(subscription.pattern) or ("", subscription.pattern)
        node = self._root
        for level in pattern.split("/"):
            node = node.children.setdefault(level, _Node())
        members = node.groups.setdefault(group, {}) if group else node.direct
        self.count += subscription.session.key not in members
        members[subscription.session.key] = subscription

    def remove(self, subscription: Subscription) -> None:
        """Take it out."""
        group, pattern = shared(subscription.pattern) or ("", subscription.pattern)
        path = [(self._root, "")]
        for level in pattern.split("/"):
            child = path[-1][0].children.get(level)
            if child is None:
                return
            path.append((child, level))
        node = path[-1][0]
        members = node.groups.get(group, {}) if group else node.direct
        if members.pop(subscription.session.key, None) is None:
            return
        self.count -= 1
        if group and not members:
            del node.groups[group]
        for (parent, _), (child, level) in zip(path[-2::-1], path[:0:-1], strict=True):
            if not child.empty:
                break
            del parent.children[level]

    def match(self, topic: str) -> tuple[list[Subscription], list[dict[str, Subscription]]]:
        """The ordinary subscriptions that cover a topic, and the groups of shared ones of which one is to have it."""
        direct: list[Subscription] = []
        groups: list[dict[str, Subscription]] = []
        for node in self._nodes(topic):
            direct += node.direct.values()
            groups += node.groups.values()
        return direct, groups

    def concerns(self, first: str) -> bool:
        """Whether any filter can cover a topic that begins with the level `first`."""
        children = self._root.children
        return first in children or "+" in children or "#" in children

    def _nodes(self, topic: str) -> Iterator[_Node]:
        levels = topic.split("/")
        nodes = [self._root]
        hidden = topic.startswith("$")  # [MQTT-4.7.2-1]: no wildcard at the first level covers it
        for level in levels:
            found: list[_Node] = []
            for node in nodes:
                children = node.children
                if not hidden:
                    if (rest := children.get("#")) is not None:
                        yield rest
                    if (single := children.get("+")) is not None:
                        found.append(single)
                if (same := children.get(level)) is not None:
                    found.append(same)
            hidden = False
            if not found:
                return
            nodes = found
        for node in nodes:
            yield node
            if (rest := node.children.get("#")) is not None:  # "sport/#" also covers "sport" (section 4.7.1.2)
                yield rest


def covers(permitted: str, pattern: str) -> bool:
    """Whether every topic that the filter `pattern` covers is covered by the filter `permitted` too."""
    if pattern.startswith("$") and permitted[:1] in ("+", "#"):
        return False
    wanted = pattern.split("/")
    allowed = permitted.split("/")
    for index, level in enumerate(allowed):
        if level == "#":
            return True
        if index >= len(wanted):
            return False
        if wanted[index] == "#" or (level not in ("+", wanted[index])):
            return False
    return len(allowed) == len(wanted)
