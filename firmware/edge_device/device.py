"""The face: what a board's program writes against."""

import sys

from .config import load
from .core import Core
from .hal import Hal
from .wire import check_name

try:
    import edge_port  # what a port without asyncio or sockets brings: `Hal`, and `run(core)` instead of the shell
except ImportError:
    edge_port = None


class Device:
    """This board, as its gateway knows it.

    `settings` holds the program's own part of the settings file. Set `observer` to an object with `on_published`,
    `on_acknowledged` and `on_command` to watch what happens on the wire (see `core.Core`).
    """

    def __init__(self, config):
        self.config = config
        self.settings = config.settings
        hal = edge_port.Hal() if edge_port else Hal()
        try:
            open("/clock.floor").close()
        except OSError:
            pass
        else:  # the clock may have gone on over a reset
            from .floor import Floor, read_clock

            Floor(hal, read_clock())
        self.core = Core(config, hal)
        self._shell = None
        if config.parts:
            from .parts import attach

            attach(self.core, config.parts)

    @classmethod
    def load(cls, path="/edge.json"):
        """The device that the settings file describes; raises ConfigError, which says what is missing."""
        return cls(load(path))

    @property
    def observer(self):
        """Who is told what happens on the wire, or None."""
        return self.core.observer

    @observer.setter
    def observer(self, observer):
        self.core.observer = observer

    def emit(self, kind, data):
        """Queue a reading for the gateway; returns its sequence. It stays here until the gateway has stored it."""
        seq = self.core.emit(kind, data)
        if self._shell:
            self._shell.wake()
        return seq

    def every(self, seconds, kind=None):
        """Decorate a function to be run every so many seconds; what it returns is a reading (None is none).

        The reading's kind is the function's name unless `kind` says otherwise.
        """
        if not seconds > 0:
            raise ValueError("seconds must be more than 0")
        period = max(1, round(seconds * 1000))

        def decorate(function):
            name = kind or function.__name__
            check_name(name, "the kind")

            def run():
                try:
                    data = function()
                    if data is not None:
                        self.core.emit(name, data)
                except Exception as error:  # a sensor that fails must not take the board with it
                    self.core.report(name, error)
                else:
                    self.core.works(name)

            self.core.every(period, run)
            return function

        return decorate

    def on_command(self, name):
        """Decorate a function of one argument, the command's arguments; what it returns goes into the reply."""
        check_name(name, "the command")

        def decorate(function):
            self.core.commands.handlers[name] = function
            return function

        return decorate

    def _twin(self):
        from .twin import attach

        return attach(self.core)

    def on_config(self, function):
        """Decorate a function of one argument, the configuration, for each version of it that comes.

        It is called once after a start for the version there is. What it raises, the operator is told.
        """
        self._twin().handler = function
        return function

    def report(self, state):
        """Tell the gateway in which state this board is, now or as soon as there is a connection; the newest counts."""
        self._twin().report(state)
        if self._shell:
            self._shell.wake()

    def updates(self):
        """What keeps this board's versions (`ota.Ota`); None without the boot loader, `ota.py`, or memory for it."""
        if "edge_boot" not in sys.modules:
            return None
        try:
            from .ota import attach

            return attach(self.core)
        except ImportError:
            pass
        except MemoryError:  # readings are worth more
            self.core.log("there is too little memory for updates")
        return None

    async def serve(self):
        """Run for ever, beside other asyncio tasks."""
        self.updates()
        from .shell import Shell

        self._shell = Shell(self.core)
        await self._shell.serve()

    def run(self):
        """Run for ever."""
        if edge_port:
            self.updates()
            edge_port.run(self.core)
        else:
            import asyncio

            asyncio.run(self.serve())
