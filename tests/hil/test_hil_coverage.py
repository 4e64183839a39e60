"""Which scenario runs where: that no kind of fault is left out, and that `docs/hil.md` tells it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from hil.conftest import SCENARIOS, runs_by_default
from hil.kinds import BY_DEFAULT, KINDS, kind_of
from hil.scenario import CAPABILITIES, Scenario, read

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "hil.md"
ALL = [read(path) for path in sorted(SCENARIOS.glob("*.txt"))]
FAULTS = {
    "drop": "link loss",
    "delay": "link delay",
    "duplicate": "link duplicates",
    "corrupt": "link damage",
    "cut": "link cut",
    "one way only": "link deaf",
    "half-open": "link half-open",
    "slow": "link slow",
    "broken": "link break",
    "unplugged": "link unplug",
    "reset": "reset",
    "power": "cut power",
}


def boards(scenario: Scenario) -> list[str]:
    """Where it runs in CI."""
    return [kind for kind in BY_DEFAULT if runs_by_default(kind, scenario) and not scenario.missing(kind_of(kind).has)]


@pytest.mark.parametrize("fault", FAULTS)
def test_each_kind_of_fault_is_in_a_scenario_that_runs(fault: str) -> None:
    using = [s for s in ALL if any(step.text.startswith(FAULTS[fault]) for step in s.steps)]
    assert any(boards(scenario) for scenario in using)


@pytest.mark.parametrize("kind", BY_DEFAULT)
def test_each_board_meets_loss_damage_repeats_and_a_command(kind: str) -> None:
    assert KINDS[kind].has <= set(CAPABILITIES)
    if kind == "wasi":
        return  # a subset by default, as the document says
    steps = {step.text.partition(" {")[0] for s in ALL if kind in boards(s) for step in s.steps}
    assert {"link loss 10%", "link damage 15%", "link duplicates 10%", "command pin", "reset"} <= steps


def test_the_document_says_which_scenario_runs_where_and_why_not() -> None:
    columns = [*BY_DEFAULT, "a port, `rp2040`"]
    head = ["", *(f"`{kind}`" for kind in BY_DEFAULT), columns[-1]]
    rows = [head, ["---"] * len(head)]
    for scenario in ALL:
        row = [f"`{scenario.path.stem}`"]
        for kind in columns:
            lacks = scenario.missing(KINDS.get(kind, KINDS["rp2040"]).has)
            asked = kind in BY_DEFAULT and not runs_by_default(kind, scenario)
            row.append(f"no {', '.join(lacks)}" if lacks else "if asked for" if asked else "runs")
        rows.append(row)
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows).replace("|  |", "| |")
    assert table in DOCUMENT.read_text(), f"docs/hil.md is to say:\n{table}"


def test_the_document_explains_each_capability() -> None:
    text = DOCUMENT.read_text()
    for capability in CAPABILITIES:
        assert f"`{capability}`" in text
