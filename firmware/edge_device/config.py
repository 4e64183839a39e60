"""The board's settings file, `/edge.json`, as `edge flash` writes it."""

import json

from .wire import check_name

# name: (default, least, most)
OPTIONS = {
    "keepalive": (30, 4, 65535),  # seconds; half of it without a word, and a ping goes out
    "patience": (10, 1, 3600),  # seconds for any answer, after which the connection is given up
    "backoff": (30, 1, 3600),  # seconds between attempts to connect, at most
    "queue": (64, 2, 100000),  # readings kept while offline
    "queue_bytes": (8192, 64, 1 << 30),  # their data, in bytes
    "batch": (16, 1, 1000),  # readings in one packet, at most
    "packet": (512, 64, 200000),  # bytes of data in a batch, and of a packet that comes in
    "window": (4, 1, 64),  # packets on their way at once (MQTT)
    "ring": (63, 32, 255),  # bytes that the serial port takes before it is read
}


_NAMES = ("device", "key", "host", "port", "link", "uart", "tls", "settings")


class ConfigError(Exception):
    """The settings file is missing or wrong; the text says where and what to do."""


class Link:
    """One way to the gateway: `kind` is "mqtt", "coap" or "serial"."""

    def __init__(self, form, where):
        self.kind = form.get("link", "mqtt")
        if self.kind not in ("mqtt", "coap", "serial"):
            raise ConfigError(where + ': \'link\' must be "mqtt", "coap" or "serial"')
        for name in () if self.kind == "serial" else ("host", "port"):
            if name not in form:
                raise ConfigError(where + " has no '" + name + "'; write it anew with `edge flash`")
        self.host = _text(where, "host", form.get("host", "-"))
        self.port = _number(where, "port", form.get("port", 1), 1, 65535)
        self.tls = form.get("tls")
        if self.tls is not None:
            from .tls import check

            if self.kind != "mqtt" or not check(self.tls):
                raise ConfigError(where + ': \'tls\' must be an object such as {"ca": "/ca.pem"}, of an MQTT link')
        self.uart = form.get("uart")
        if self.uart is not None and not (isinstance(self.uart, dict) and "id" in self.uart):
            raise ConfigError(where + ': \'uart\' must be an object such as {"id": 1, "baudrate": 115200}')


class Config:
    """Who the board is, where its gateway is, and its sizes; `settings` is whatever the program wants to find there."""

    parts = None
    """Settings of the parts beside the core (`parts.py`)."""

    def __init__(self, form, where="the settings"):
        if not isinstance(form, dict):
            raise ConfigError(where + " must hold an object: {...}")
        self.options = {name: OPTIONS[name][0] for name in OPTIONS}
        self.settings = {}
        self.links = None
        """What chooses among several links (`links.Links`)."""
        if not all(name in _NAMES or name in OPTIONS for name in form):
            try:
                from .parts import take  # it knows some more names, and takes them out
            except ImportError:
                pass
            else:
                form = take(self, form, where)
        self.link = self.links.link if self.links else Link(form, where)
        for name in ("device", "key"):
            if name not in form and not (name == "key" and self.link.tls and "cert" in self.link.tls):
                raise ConfigError(where + " has no '" + name + "'; write it anew with `edge flash`")
        for name, value in form.items():
            if name in OPTIONS:
                _, least, most = OPTIONS[name]
                self.options[name] = _number(where, name, value, least, most)
            elif name == "settings":
                if not isinstance(value, dict):
                    raise ConfigError(where + ": 'settings' must be an object")
                self.settings = value
            elif name not in _NAMES:
                raise ConfigError(
                    where + " has an unknown entry '" + str(name) + "'; a program's own go into 'settings'"
                )
        try:
            check_name(form["device"], "the device id", 128)
        except ValueError as error:
            raise ConfigError(where + ": " + str(error)) from None
        self.device = form["device"]
        self.key = _text(where, "key", form.get("key", "-"))


def _text(where, name, value):
    if not isinstance(value, str) or not value:
        raise ConfigError(where + ": '" + name + "' must be a text")
    return value


def _number(where, name, value, least, most):
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(where + ": '" + name + "' must be a whole number from " + str(least) + " to " + str(most))
    return value


def load(path):
    """Read a settings file; raises ConfigError."""
    try:
        with open(path) as file:
            form = json.load(file)
    except OSError:
        raise ConfigError("there is no settings file " + path + " on this board; write it with `edge flash`") from None
    except ValueError:
        raise ConfigError(path + " is not valid JSON; write it anew with `edge flash`") from None
    return Config(form, path)
