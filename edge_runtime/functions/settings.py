"""From edge.toml: what an app may use, and how it is scaled."""

from __future__ import annotations

import re
from collections.abc import Callable

from edge_runtime.config import AppSettings, Config
from edge_runtime.errors import ConfigError
from edge_runtime.functions.limits import Limits
from edge_runtime.functions.scaling import ScaleSettings
from edge_runtime.functions.versions import AppFiles

_NAMED = re.compile(rb"""\bApp\(\s*["']([A-Za-z0-9_-]{1,64})["']""")


def default_limits(config: Config) -> Limits:
    """The limits of apps without a table of their own. Raises `ConfigError`."""
    return Limits(time=config.functions.time_limit, memory=config.functions.memory_limit)


def limits_by_app(config: Config) -> Callable[[str], Limits]:
    """Tells the limits of an app by its name. Raises `ConfigError`."""
    default = default_limits(config)
    own = {app: _limits(app, found, config) for app, found in config.apps.items()}
    return lambda app: own.get(app, default)


def _limits(app: str, found: AppSettings, config: Config) -> Limits:
    try:
        return Limits(
            time=found.time_limit or config.functions.time_limit,
            load_time=found.load_time,
            memory=found.memory_limit or config.functions.memory_limit,
            output=found.output,
            lines=found.lines,
            effects=found.effects,
            state=found.state,
            cpu=found.cpu,
            tier=found.tier,
            preload=found.preload if found.tier == "native" else (),
        )
    except ConfigError as error:
        raise ConfigError(f"[apps.{app}]: {error}") from None


def scaling_of(config: Config, app: str) -> ScaleSettings:
    """Between what bounds an app is scaled: no more instances than there are executors."""
    found = config.apps.get(app, AppSettings())
    executors = config.functions.executors
    most = min(found.max or executors, executors)
    return ScaleSettings(min(found.min, most), most, found.idle)


def probable_name(content: AppFiles) -> str:
    """What an app that was not loaded yet seems to be called; empty where that cannot be seen.

    Only its load tells. But with limits that are too narrow for it, it may not get so far.
    """
    found = _NAMED.search(content.files[content.entry])
    return found[1].decode() if found else ""
