"""Messages of devices that speak a dialect of their own, as events: by a table of topics.

Pure: topic and payload in, device, kind, time and data out. Such messages have no identity, so a repeat of one cannot
be recognised; whoever takes them in gives them one (`stamps`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from edge_runtime import wire
from edge_runtime.errors import ConfigError, WireError
from edge_runtime.events import DEVICE, GATEWAY, NAME

MAX_KEPT = 128
"""Characters of a device id; a kind has half of them."""
_PLACE = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}")
_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")
_LATEST = 2**62


class Rule(msgspec.Struct, frozen=True):
    """One line of the table. `kind`, `device` and the names of `fields` may contain places of the topic, in braces."""

    topic: str
    """A topic filter in which `{name}` is a level that has a name."""
    kind: str
    device: str = "{device}"
    fields: Mapping[str, str] = {}
    """Where each field stands in the payload, as a path with dots; `""` is the payload as a whole.

    One `*` in the path stands for any name, and in the field's name for what it stood for. Without fields the event
    has all of the payload.
    """
    time: str = ""
    """Where the time stands: text of RFC 3339 with its zone, or a number of seconds, milliseconds or microseconds."""


READY: dict[str, tuple[Rule, ...]] = {
    # Its `Time` has no zone unless one is set, so the time of arrival is the better one.
    "tasmota": (
        Rule("tele/{device}/SENSOR", "sensor"),
        Rule("tele/{device}/STATE", "state"),
        Rule("tele/{device}/LWT", "availability", fields={"status": ""}),
        Rule("stat/{device}/RESULT", "result"),
    ),
    # `{device}` is the friendly name; `zigbee2mqtt/bridge/...` has a level more and is left out by that.
    "zigbee2mqtt": (
        Rule("zigbee2mqtt/{device}", "state"),
        Rule("zigbee2mqtt/{device}/availability", "availability", fields={"status": ""}),
    ),
    "esphome": (
        Rule("{device}/sensor/{name}/state", "sensor", fields={"{name}": ""}),
        Rule("{device}/binary_sensor/{name}/state", "binary_sensor", fields={"{name}": ""}),
        Rule("{device}/text_sensor/{name}/state", "text_sensor", fields={"{name}": ""}),
        Rule("{device}/switch/{name}/state", "switch", fields={"{name}": ""}),
        Rule("{device}/status", "availability", fields={"status": ""}),
    ),
}
"""The mappings that need no table."""


class Mapped(msgspec.Struct, frozen=True):
    """What a message says, as an event that has no identity yet."""

    device: str
    kind: str
    time: int | None
    data: Any


class _Compiled:
    def __init__(self, rule: Rule, where: str) -> None:
        self.rule = rule
        levels = rule.topic.split("/")
        parts, plain, names = [], [], []
        for index, level in enumerate(levels):
            found = _PLACE.fullmatch(level)
            if found is not None:
                names.append(found[1])
                parts.append(f"(?P<{found[1]}>[^/]+)")
                plain.append("+")
            elif level == "#" and index == len(levels) - 1:
                plain.append("#")
            elif level == "+" or not re.search(r"[{}+#\x00]", level):
                parts.append("[^/]*" if level == "+" else re.escape(level))
                plain.append(level)
            else:
                raise ConfigError(
                    f"{where}: '{rule.topic}' is no topic: '{level[:40]}' is neither a name, '{{name}}', '+' nor '#'",
                    hint="A level is named as a whole, such as in 'tele/{device}/SENSOR'.",
                )
        if len(set(names)) < len(names):
            raise ConfigError(f"{where}: '{rule.topic}' has the same name twice")
        self.filter = "/".join(plain)
        tail = "" if plain[-1] != "#" else "(?:/.*)?" if parts else ".*"
        system = r"(?!\$)" if plain[0] in ("+", "#") else ""  # [MQTT-4.7.2-1]
        self.match = re.compile(system + "/".join(parts) + tail, re.DOTALL).fullmatch
        templates = (rule.kind, rule.device, *rule.fields)
        for place in (place for template in templates for place in _PLACE.findall(template)):
            if place not in names:
                raise ConfigError(f"{where}: '{{{place}}}' is not in the topic '{rule.topic}'")
        for name, path in rule.fields.items():
            if not path.count("*") == path.split(".").count("*") == name.count("*") <= 1:
                raise ConfigError(
                    f"{where}: the field '{name}' and its path '{path}' do not go together",
                    hint="A '*' stands for one whole name in the path, and once in the name of the field.",
                )


class Mapper:
    """The table as a whole; the first rule that covers a topic is used."""

    def __init__(self, rules: Iterable[tuple[str, Rule]]) -> None:
        """`rules` with the places where they stand, for the ConfigError that one of them may raise."""
        self._rules = [_Compiled(rule, where) for where, rule in rules]

    def filters(self) -> list[str]:
        """The topic filters to subscribe to."""
        return list(dict.fromkeys(rule.filter for rule in self._rules))

    def covers(self, topic: str) -> bool:
        """Whether messages of this topic become events."""
        return any(rule.match(topic) for rule in self._rules)

    def device_of(self, topic: str) -> str:
        """Which device a topic speaks for; empty for none."""
        for rule in self._rules:
            found = rule.match(topic)
            if found is not None:
                return _device(_filled(rule.rule.device, found.groupdict()))
        return ""

    def map(self, topic: str, payload: bytes) -> Mapped | None:
        """The event that a message stands for; None if no rule covers it, or it has none of the fields.

        Raises WireError for a payload that cannot be an event's.
        """
        for compiled in self._rules:
            found = compiled.match(topic)
            if found is not None:
                return _mapped(compiled.rule, found.groupdict(), payload)
        return None


def mapper(use: Sequence[str], own: Mapping[str, Rule]) -> Mapper:
    """A table of `own` rules, by their names, and then of the ready ones. Raises ConfigError."""
    rules = [(f"mappings.own.{name}", rule) for name, rule in own.items()]
    return Mapper([*rules, *((f"mappings.use ({name})", rule) for name in use for rule in READY[name])])


def _mapped(rule: Rule, places: dict[str, str], payload: bytes) -> Mapped | None:
    device = _device(_filled(rule.device, places))
    kind = _name(_filled(rule.kind, places))
    if not device or not kind:
        return None
    content = _content(payload)
    data = content
    if rule.fields:
        data = {}
        for name, path in rule.fields.items():
            template = _filled(name, places)
            for star, value in _found(content, path):
                data[template.replace("*", star)] = value
        if not data:
            return None
    wire.check_plain(data)
    moments = [value for _, value in _found(content, rule.time)] if rule.time else []
    return Mapped(device, kind, _moment(moments[0]) if moments else None, data)


def _content(payload: bytes) -> Any:
    """JSON where it is some, else text, else bytes."""
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    except RecursionError:
        raise WireError(f"values are nested deeper than {wire.MAX_DEPTH} levels") from None
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return payload


def _found(content: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What stands at a path, with what its `*` stands for."""
    if not path:
        yield "", content
        return
    before, star, after = path.partition("*")
    inner = _at(content, before.rstrip("."))
    if not star:
        if inner is not None:
            yield "", inner
    elif type(inner) is dict:
        for name, value in inner.items():
            end = _at(value, after.lstrip("."))
            if end is not None:
                yield str(name), end


def _at(content: Any, path: str) -> Any:
    for name in path.split(".") if path else ():
        if type(content) is dict:
            content = content.get(name)
        elif type(content) is list and name.isascii() and name.isdigit() and int(name[:6]) < len(content):
            content = content[int(name[:6])]
        else:
            return None
    return content


def _moment(value: Any) -> int | None:
    """Microseconds since 1970-01-01 UTC; None for what is no moment, or one without its zone."""
    if type(value) in (int, float):
        if not 0 < value < _LATEST:
            return None
        scale = 1_000_000 if value < 1e11 else 1000 if value < 1e14 else 1
        return int(value * scale)
    if type(value) is not str or len(value) > 40:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return None if moment.tzinfo is None else int(moment.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        return None


def _filled(template: str, places: dict[str, str]) -> str:
    return _PLACE.sub(lambda match: places[match[1]], template)


def _device(text: str) -> str:
    name = _FOREIGN.sub("_", text).lstrip("_.-")[:MAX_KEPT]
    return name if DEVICE.fullmatch(name) and name != GATEWAY else ""


def _name(text: str) -> str:
    name = _FOREIGN.sub("_", text).lstrip("_.-")[: MAX_KEPT // 2]
    return name if NAME.fullmatch(name) else ""
