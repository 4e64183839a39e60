"""edge.toml read strictly: what a person mistypes is answered with the file, the path of the setting, what was
expected, and the nearest name that exists."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any, ClassVar, get_origin
from urllib.parse import urlsplit

import msgspec

from edge_runtime.config.kinds import expected, shown, unit_of
from edge_runtime.config.sections import (
    TARGETS,
    AppSettings,
    Config,
    ControlSettings,
    Gateway,
    Http,
    HttpCloudEvents,
    MappingSettings,
    Mqtt,
    PaceSettings,
    SchemaSettings,
    SerialSettings,
    StreamSettings,
)
from edge_runtime.config.values import host_and_port, loopback
from edge_runtime.errors import ConfigError, nearest

MAX_FILE = 1 << 20
"""Bytes of a configuration file."""


def load(path: Path) -> Config:
    """Read a configuration file. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"There is no configuration file {path}.", hint="'edge init' writes one; '--config' names another."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(raw) > MAX_FILE:
        raise ConfigError(f"{path} is larger than {MAX_FILE >> 20} MiB; that is no configuration file.")
    try:
        text = raw.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text.") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Config:
    """The configuration in `text`; `path` is where relative paths start and what errors name. Raises `ConfigError`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_error(str(error), text, path)) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply.") from None
    config: Config = _Reader(path).struct(raw, Config, "")
    return config


def _syntax_error(message: str, text: str, path: Path) -> str:
    """tomllib's message, with its place at the front."""
    what, _, place = message.rpartition(" (at ")
    place = place.rstrip(")")
    if place == "end of document":
        place = f"line {len(text.splitlines()) or 1}"
    return f"{path}, {place}: {what}."


class _Reader:
    """Turns parsed TOML into structs, one setting at a time, so that each error knows its path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _error(self, where: str, message: str, hint: str = "") -> ConfigError:
        return ConfigError(f"{self._path}: '{where}' {message}.", hint=hint)

    def struct(self, raw: Any, kind: type[Any], where: str) -> Any:
        if type(raw) is not dict:
            raise self._error(where, f"is a table: expected [{where}]")
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        prefix = f"{where}." if where else ""
        for key in raw:
            if key not in fields:
                raise self._error(prefix + key, "is not a setting", nearest(key, fields))
        for field in fields.values():
            if field.required and field.name not in raw:
                raise self._error(prefix + field.name, "is missing")
        values = {key: self._value(value, fields[key].type, prefix + key) for key, value in raw.items()}
        if kind is Gateway:
            values.setdefault("data", self._folder(str(Gateway().data)))
        elif kind is Config:
            values.setdefault("gateway", self.struct({}, Gateway, "gateway"))
        elif kind is Mqtt:
            self._check_mqtt(kind(**values))
        elif kind is Http:
            self._check_http(kind(**values))
        return kind(**values)

    def _check_mqtt(self, mqtt: Mqtt) -> None:
        for name in ("listen", "websocket_listen"):
            address = getattr(mqtt, name)
            if address and not mqtt.insecure and not loopback(address):
                hint = f"Set mqtt.{name.replace('listen', 'tls_listen')}, or insecure = true on a network of your own."
                raise self._error(f"mqtt.{name}", "is an address that others can reach, without TLS", hint)
        if bool(mqtt.certificate) != bool(mqtt.key):
            missing = "mqtt.key" if mqtt.certificate else "mqtt.certificate"
            raise self._error(missing, "is missing: a certificate needs its key, and a key its certificate")

    def _check_http(self, http: Http) -> None:
        if http.listen and not http.tls and not http.insecure and not loopback(http.listen):
            hint = "Set http.tls = true, or http.insecure = true behind a TLS proxy or on a network of your own."
            raise self._error("http.listen", "is an address that others can reach, without TLS", hint)

    def _value(self, raw: Any, kind: Any, where: str) -> Any:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.struct(raw, kind, where)
        if get_origin(kind) is dict:
            return self._dicts[where](self, raw, where)
        if kind is Path:
            return self._folder(self._leaf(raw, str, where))
        value = self._leaf(raw, kind, where)
        try:
            if where == "mqtt.listen" or (where.endswith("listen") and value):
                host_and_port(value)
            elif where in ("mqtt.certificate", "mqtt.key", "mqtt.client_ca") and value:
                return str(self._folder(value))
            elif where == "attach.url":
                _check_broker(value)
            elif where.startswith("attach.") and where.endswith(("_file", ".ca", ".certificate", ".key")) and value:
                return str(self._folder(value))
            elif where.endswith(".url"):
                _check_url(value)
        except ValueError as error:
            raise self._error(where, f"is wrong: {error}") from None
        return value

    def _leaf(self, raw: Any, kind: Any, where: str) -> Any:
        unit = unit_of(kind)
        try:
            return msgspec.convert(raw if unit is None else unit.parse(raw), kind)
        except ValueError:  # msgspec's own ValidationError is one too; what it says is in terms of Python
            raise self._error(where, f"is {shown(raw)}: expected {expected(kind)}") from None

    def _apps(self, raw: Any, where: str) -> dict[str, AppSettings]:
        if type(raw) is not dict:
            raise self._error(where, "holds tables: expected [apps.NAME]")
        found = {}
        for name, table in raw.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
                raise self._error(f"{where}.{name[:80]}", "is not an app's name: 1 to 64 letters, digits, '_' or '-'")
            app: AppSettings = self.struct(table, AppSettings, f"{where}.{name}")
            if app.max and app.min > app.max:
                raise self._error(f"{where}.{name}.min", f"is {app.min}: more than max, which is {app.max}")
            found[name] = app
        return found

    def _targets(self, raw: Any, where: str) -> dict[str, HttpCloudEvents]:
        if type(raw) is not dict:
            raise self._error(where, "holds tables: expected [targets.NAME]")
        return {name: self._target(target, f"{where}.{name}") for name, target in raw.items()}

    def _target(self, raw: Any, where: str) -> HttpCloudEvents:
        # The type first: it decides which settings there are.
        if type(raw) is dict and "type" not in raw:
            raise self._error(f"{where}.type", "is missing", f"The types of target: {', '.join(TARGETS)}.")
        if type(raw) is dict and type(kind := raw.get("type")) is str and kind not in TARGETS:
            raise self._error(f"{where}.type", f"is {shown(kind)}: no such type of target", nearest(kind, TARGETS))
        target: HttpCloudEvents = self.struct(raw, HttpCloudEvents, where)
        return target

    def _serial(self, raw: Any, where: str) -> dict[str, SerialSettings]:
        ports = self._named(raw, where, SerialSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")
        for name, port in ports.items():
            if not port.path:
                raise self._error(f"{where}.{name}.path", "is empty: expected a path or a pattern of paths")
            if port.usb and not re.fullmatch(r"[0-9A-Fa-f]{4}(:[0-9A-Fa-f]{4})?", port.usb):
                raise self._error(f"{where}.{name}.usb", f'is {shown(port.usb)}: expected an id such as "2e8a:0005"')
        return ports

    def _schemas(self, raw: Any, where: str) -> dict[str, SchemaSettings]:
        return self._named(raw, where, SchemaSettings, r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "KIND")

    def _streams(self, raw: Any, where: str) -> dict[str, StreamSettings]:
        return self._named(raw, where, StreamSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")

    def _pace(self, raw: Any, where: str) -> dict[str, PaceSettings]:
        return self._named(raw, where, PaceSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")

    def _controls(self, raw: Any, where: str) -> dict[str, ControlSettings]:
        found = self._named(raw, where, ControlSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")
        for name, control in found.items():
            for setting in ("on", "off"):
                try:
                    msgspec.json.decode(getattr(control, setting) or "null")
                except ValueError:
                    raise self._error(f"{where}.{name}.{setting}", "is no JSON") from None
            if control.state and (not control.off or not all(control.state.rpartition("."))):
                raise self._error(f"{where}.{name}.state", "is for switches: expected kind.field, and 'off'")
        return found

    def _own_mappings(self, raw: Any, where: str) -> dict[str, MappingSettings]:
        return self._named(raw, where, MappingSettings, r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", "NAME")

    def _named(self, raw: Any, where: str, kind: type[Any], pattern: str, shown: str) -> dict[str, Any]:
        if type(raw) is not dict:
            raise self._error(where, f"holds tables: expected [{where}.{shown}]")
        for name in raw:
            if not re.fullmatch(pattern, name):
                raise self._error(f"{where}.{name[:80]}", f"is not a {shown.lower()}")
        return {name: self.struct(table, kind, f"{where}.{name}") for name, table in raw.items()}

    _dicts: ClassVar[dict[str, Any]] = {
        "apps": _apps,
        "targets": _targets,
        "schemas": _schemas,
        "serial": _serial,
        "streams": _streams,
        "pace": _pace,
        "controls": _controls,
        "mappings.own": _own_mappings,
    }

    def _folder(self, text: str) -> Path:
        # Not resolve(): a link stays a link, so that what it points to can be moved.
        return Path(os.path.abspath(self._path.parent / Path(text).expanduser()))


def _check_broker(url: str) -> None:
    if not url:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError('expected a URL such as "mqtt://127.0.0.1:1883"')
    if parts.username is not None:
        raise ValueError("a URL with a password in it would show up in logs: use 'attach.user' and 'password_file'")
    if parts.port == 0:
        raise ValueError("port 0 is none to connect to")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\x00-\x1f]", url):
        raise ValueError('expected a URL such as "https://example.org/on-event"')
    if parts.username is not None:
        raise ValueError("a URL with a password in it would show up in logs")
