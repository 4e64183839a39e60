"""Topic names and filters (section 4.7)."""

from __future__ import annotations

from edge_runtime.proto.mqtt.violation import PROTOCOL_ERROR, ProtocolViolation


def check_name(topic: str) -> None:
    """Raise ProtocolViolation unless `topic` may stand in a PUBLISH."""
    if not topic:
        raise ProtocolViolation("a topic name is empty", "MQTT-4.7.3-1")
    if "+" in topic or "#" in topic:
        raise ProtocolViolation("a topic name contains a wildcard", "MQTT-3.3.2-2")


def check_filter(pattern: str) -> None:
    """Raise ProtocolViolation unless `pattern` may stand in a SUBSCRIBE."""
    if not pattern:
        raise ProtocolViolation("a topic filter is empty", "MQTT-4.7.3-1")
    *parents, last = pattern.split("/")
    for level in parents:
        if "#" in level:
            raise ProtocolViolation("'#' stands elsewhere than at the end of a topic filter", "MQTT-4.7.1-2")
    if "#" in last and last != "#":
        raise ProtocolViolation("'#' does not fill the last level of a topic filter", "MQTT-4.7.1-2")
    if any("+" in level and level != "+" for level in (*parents, last)):
        raise ProtocolViolation("'+' does not fill its level of a topic filter", "MQTT-4.7.1-3")


def shared(pattern: str) -> tuple[str, str] | None:
    """The group and the filter of a shared subscription (MQTT 5.0 section 4.8.2); None for an ordinary filter."""
    if not pattern.startswith("$share/"):
        return None
    group, _, inner = pattern[7:].partition("/")
    if not group or "+" in group or "#" in group:
        raise ProtocolViolation(
            "the name of a shared subscription is empty or has a wildcard", "MQTT-4.8.2-2", reason=PROTOCOL_ERROR
        )
    if not inner:
        raise ProtocolViolation("a shared subscription has no filter", "MQTT-4.8.2-1", reason=PROTOCOL_ERROR)
    check_filter(inner)
    return group, inner


def matches(pattern: str, topic: str) -> bool:
    """Whether the valid filter `pattern` covers the topic name `topic`."""
    if topic.startswith("$") and pattern[:1] in ("+", "#"):
        return False  # [MQTT-4.7.2-1]
    levels = topic.split("/")
    wanted = pattern.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)
