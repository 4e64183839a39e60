"""The parts that a board's settings ask for beside the core: `keep`, `duty`, `spool`, `clock`, `watchdog`."""

import sys

from .config import ConfigError

_PARTS = ("clock", "duty", "keep", "spool", "watchdog")
_LINKS = ("links", "jwt", "prefer")


def take(config, form, where):
    """Take out of a settings file what is for the parts, and for `links.py`; returns the rest. Raises ConfigError."""
    config.parts = {name: form[name] for name in form if name in _PARTS}
    form = {name: form[name] for name in form if name not in _PARTS}
    if any(name in form for name in _LINKS):
        from .links import load

        config.links = load(form, where)
        return config.links.form
    return form


def add(core, part):
    """Have `part.tick(now)` be called before each step of the core; it returns in how many ms it has to be again."""
    step = core.step
    tick = part.tick

    def both(now):
        wait = tick(now)
        return min(wait, step(now))

    core.step = both


def attach(core, parts, settings="the settings"):
    """Load what `parts`, a map from names to settings, names, and have the core use it. Raises ConfigError."""
    try:
        # In this order: what a board remembers from before it slept decides whose readings the spool takes for its own.
        # Of the steps, that of the last part comes first.
        if "keep" in parts:
            from .keep import attach

            attach(core, parts["keep"])
        if "duty" in parts:
            if "spool" not in parts:
                raise ValueError("'duty' needs a 'spool': what is in RAM does not outlive the sleep")
            if "watchdog" in parts and sys.platform == "rp2":
                raise ValueError("not 'duty' and 'watchdog' on this chip: it goes on in the sleep, and ends it")
            from .duty import attach

            attach(core, parts["duty"])
        if "spool" in parts:
            from .spool import attach

            attach(core, parts["spool"])
        if "clock" in parts:
            from .clock import attach

            attach(core, parts["clock"])
        if "watchdog" in parts:
            from .watchdog import attach

            attach(core, parts["watchdog"])
    except ImportError as error:
        raise ConfigError(settings + ": this board lacks what they ask for: " + str(error)) from None
    except ValueError as error:
        raise ConfigError(settings + ": " + str(error)) from None
