"""Limits and scaling of an app by its name, from edge.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime import config
from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError, DeployError
from edge_runtime.functions.limits import MIB, Limits
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.scaling import ScaleSettings
from edge_runtime.functions.settings import default_limits, limits_by_app, scaling_of

TOML = """
[functions]
executors = 2
time_limit = "300ms"
[apps.vision]
time_limit = "5s"
memory_limit = "128MiB"
cpu = 0.5
tier = "native"
lines = 7
min = 1
max = 9
idle = "1m"
[apps.plain]
"""


def parsed(text: str = TOML) -> config.Config:
    return config.parse(text, Path("/tmp/edge.toml"))


def test_an_app_has_its_own_limits_and_those_of_all_where_it_says_nothing() -> None:
    limits = limits_by_app(parsed())
    assert limits("vision") == Limits(time=5_000_000, memory=128 * MIB, cpu=0.5, tier="native", lines=7)
    assert limits("plain") == limits("other") == default_limits(parsed()) == Limits(time=300_000)


def test_no_more_instances_than_executors() -> None:
    assert scaling_of(parsed(), "vision") == ScaleSettings(1, 2, 60_000_000)
    assert scaling_of(parsed(), "other") == ScaleSettings(0, 2, 600_000_000)


def test_a_limit_that_cannot_be_is_named_with_its_app() -> None:
    with pytest.raises(ConfigError, match=r"\[apps.small\]: the limit 'memory' is 1048576; it must be between"):
        limits_by_app(parsed('[apps.small]\nmemory_limit = "1MiB"'))


SLOW = """
import time
from edge import App
app = {made}
end = time.monotonic() + 0.3
while time.monotonic() < end: pass
@app.on("climate")
def f(event): pass
"""


async def test_an_app_is_checked_with_the_limits_of_its_name(guest: object, tmp_path: Path) -> None:
    own = {"slow": Limits(load_time=2_000_000), "quick": Limits(lines=3)}
    made = FunctionPlatform(
        tmp_path, SystemClock(), limits=Limits(load_time=100_000), limits_of=lambda app: own.get(app, made._limits)
    )
    await made.start()
    try:
        checked = await made.check({"a.py": SLOW.format(made='App("slow")').encode()})
        assert checked.content.limits == own["slow"], "it would not have loaded with the others"
        with pytest.raises(DeployError, match="more than 100 ms"):
            await made.check({"a.py": SLOW.format(made='App("other")').encode()})
        hidden = b"from edge import App\nname = 'quick'\napp = App(name)\n@app.on('climate')\ndef f(event): pass\n"
        checked = await made.check({"a.py": hidden})
        assert checked.content.limits == own["quick"], "its name shows when it is loaded"
        plain = await made.check({"a.py": hidden}, Limits(lines=5))
        assert plain.content.limits == Limits(lines=5)
        assert plain.version != checked.version
    finally:
        await made.stop()
