"""`pytest hil --board KIND --image FILE`: which board the scenarios run on, and the gateway that they run against."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hil.kinds import BY_DEFAULT, has, missing
from hil.scenario import Scenario, read
from tests.hil.real_gateway import RealGateway

FUNCTION = Path(__file__).parent / "bench" / "function.py"
FEWER = {"wasi": {"first_event", "button_switches_pin"}}
"""What runs by default of a kind whose firmware is on a network as `unix` is; `--board wasi` runs all."""
SCENARIOS = Path(__file__).parent / "scenarios"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of this folder."""
    group = parser.getgroup("hil", "scenarios on boards (docs/hil.md)")
    group.addoption(
        "--board",
        action="append",
        default=[],
        help=f"{', '.join(BY_DEFAULT)}, rp2040, or the path of a port; may be given more than once "
        "(default: all that run without hardware)",
    )
    group.addoption("--image", type=Path, help="a MicroPython image (UF2) for --board rp2040")
    group.addoption("--scenario", type=Path, action="append", default=[], help="a file (default: all of hil/scenarios)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each scenario on each board."""
    if "scenario" not in metafunc.fixturenames:
        return
    files = metafunc.config.getoption("--scenario") or sorted(SCENARIOS.glob("*.txt"))
    chosen = metafunc.config.getoption("--board")
    cases = [(kind, read(file)) for kind in chosen or BY_DEFAULT for file in files]
    if not chosen:
        cases = [
            (kind, scenario) for kind, scenario in cases if scenario.path.stem in FEWER.get(kind, {scenario.path.stem})
        ]
    ids = [f"{kind}-{scenario.path.stem}" for kind, scenario in cases]
    metafunc.parametrize(("kind", "scenario"), cases, ids=ids)


@pytest.fixture
def image(request: pytest.FixtureRequest) -> Path | None:
    """What `--image` names."""
    given: Path | None = request.config.getoption("--image")
    return given


@pytest.fixture
def runnable(kind: str, scenario: Scenario, image: Path | None) -> None:
    """Says by name what cannot be run, and why."""
    lacks = scenario.missing(has(kind))
    if lacks:
        pytest.skip(f"{scenario.path.name} needs {', '.join(lacks)}, which the board '{kind}' has not")
    why = missing(kind, image)
    if why:
        (pytest.fail if os.environ.get("CI") and kind in BY_DEFAULT else pytest.skip)(why)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGateway]:
    """The gateway's process, one for all."""
    gateway = RealGateway(tmp_path_factory.mktemp("gateway"))
    gateway.start()
    gateway.api.deploy({"bench.py": FUNCTION.read_bytes()})
    yield gateway
    gateway.stop()
