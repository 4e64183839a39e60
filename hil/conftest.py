"""`pytest hil --board KIND --image FILE`: which board the scenarios run on, and the gateway that they run against."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import EdgeError
from hil.board import BoardError
from hil.kinds import BY_DEFAULT, KINDS, kind_of
from hil.run import Failed, told
from hil.scenario import Scenario, read
from tests.hil.real_gateway import RealGateway

FUNCTION = Path(__file__).parent / "bench" / "function.py"
FEWER = {"wasi": {"first_event", "button_switches_pin"}}
"""What runs by default of a kind whose firmware is on a network as `unix` is; `--board wasi` runs all."""
SCENARIOS = Path(__file__).parent / "scenarios"
CASES = pytest.StashKey[list[tuple[str, Scenario]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of this folder."""
    group = parser.getgroup("hil", "scenarios on boards (docs/hil.md)")
    group.addoption(
        "--board",
        action="append",
        default=[],
        help=f"{', '.join(KINDS)}, or the path of a port; may be given more than once "
        f"(default: all that run without hardware, {', '.join(BY_DEFAULT)})",
    )
    group.addoption("--image", type=Path, help="a MicroPython image (UF2) for --board rp2040")
    group.addoption("--scenario", type=Path, action="append", default=[], help="a file (default: all of hil/scenarios)")


def pytest_configure(config: pytest.Config) -> None:
    """What is to be run, looked at before anything is, so that a mistake is told in one line."""
    try:
        config.stash[CASES] = list(_cases(config))
    except EdgeError as error:
        raise pytest.UsageError(told(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each scenario on each board."""
    if "scenario" in metafunc.fixturenames:
        cases = metafunc.config.stash[CASES]
        ids = [f"{kind}-{scenario.path.stem}" for kind, scenario in cases]
        metafunc.parametrize(("kind", "scenario"), cases, ids=ids)


def _cases(config: pytest.Config) -> Iterator[tuple[str, Scenario]]:
    """What is to be run. Raises EdgeError for a file that nobody understands, and a board that cannot be had."""
    scenarios = [read(file) for file in config.getoption("--scenario") or sorted(SCENARIOS.glob("*.txt"))]
    chosen = config.getoption("--board")
    for name in chosen:
        if why := kind_of(name).missing(config.getoption("--image")):
            raise BoardError(f"--board {name}: {why}")
    for name in chosen or BY_DEFAULT:
        for scenario in scenarios:
            if chosen or runs_by_default(name, scenario):
                yield name, scenario


def runs_by_default(kind: str, scenario: Scenario) -> bool:
    """Whether it runs on this kind of board where nobody asks for a kind."""
    return kind in BY_DEFAULT and scenario.path.stem in FEWER.get(kind, {scenario.path.stem})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What went wrong with a board is told without the way through the code."""
    report = yield
    if call.excinfo is not None and isinstance(error := call.excinfo.value, Failed | EdgeError):
        report.longrepr = told(error)
    return report


@pytest.fixture
def image(request: pytest.FixtureRequest) -> Path | None:
    """What `--image` names."""
    given: Path | None = request.config.getoption("--image")
    return given


@pytest.fixture
def runnable(kind: str, scenario: Scenario, image: Path | None) -> None:
    """Says by name what cannot be run, and why."""
    lacks = scenario.missing(kind_of(kind).has)
    if lacks:
        pytest.skip(f"{scenario.path.name} needs {', '.join(lacks)}, which the board '{kind}' has not")
    if why := kind_of(kind).missing(image):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealGateway]:
    """The gateway's process, one for all."""
    gateway = RealGateway(tmp_path_factory.mktemp("gateway"))
    gateway.start()
    gateway.api.deploy({"bench.py": FUNCTION.read_bytes()})
    yield gateway
    gateway.stop()
