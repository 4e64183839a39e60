"""The broker's figures, as a client finds them when it subscribes to them: `$SYS/broker/...`."""

from __future__ import annotations

from edge_runtime.ingress.broker.message import Counters, Message
from edge_runtime.ingress.broker.retained import Retained
from edge_runtime.ingress.broker.tree import Tree
from edge_runtime.proto import mqtt

TREE = "$SYS/"


def messages(pattern: str, counters: Counters, sessions: int, tree: Tree, retained: Retained) -> list[Message]:
    """Those that a filter covers."""
    if not pattern.startswith(TREE):
        return []
    figures = {
        "clients/connected": counters.connections,
        "clients/total": sessions,
        "subscriptions/count": tree.count,
        "retained messages/count": len(retained),
        "messages/published": counters.published,
        "messages/delivered": counters.delivered,
        "messages/dropped": counters.dropped_full + counters.dropped_slow + counters.dropped_large + counters.expired,
    }
    topics = {f"{TREE}broker/{name}": str(figure).encode() for name, figure in figures.items()}
    return [Message(topic, text) for topic, text in topics.items() if mqtt.matches(pattern, topic)]
