"""What a scenario's file may say, what is said where it says something else, and when a run fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hil.board import BoardConfig, BoardError
from hil.faults import Faults
from hil.journal import BoardJournal
from hil.run import Bench, Failed, Record, Reply
from hil.scenario import ScenarioError, parse

FILE = Path("some.txt")
TEXT = """
# What it shows
needs: journal
every: 50 ms

# and why
power on
link damage 30%
expect event button {"button": "a"} within 7 s
expect 3 events
cut power
link unplug
"""


def test_a_file_says_what_to_do_and_what_that_needs() -> None:
    scenario = parse(TEXT, FILE)
    assert (scenario.title, scenario.period_ms) == ("What it shows", 50)
    assert scenario.needs == {"journal", "link", "power", "unplug"}
    assert scenario.missing(frozenset({"link", "power"})) == ["journal", "unplug"]
    step = scenario.steps[2]
    assert (step.line, step.verb, step.name, step.data, step.within) == (
        9,
        "expect event",
        "button",
        {"button": "a"},
        7,
    )
    assert [step.within for step in scenario.steps[3:4]] == [30]


def test_what_steps_are_about_is_no_capability() -> None:
    scenario = parse('# t\nreset\ncommand unplug\nexpect event break {"power": 1}\nexpect disconnected', FILE)
    assert scenario.needs == {"reset", "presence"}
    assert parse("# t\nlink half-open\nexpect connected", FILE).needs == {"link", "network"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# t\npower up", r"some.txt:2: 'power up' is no step"),
        ("# t\nexpect event a {b}", r"some.txt:2: {b} is no JSON"),
        ("# t\nneeds: wings", r"some.txt:2: there is no capability 'wings'"),
        ("power on", r"some.txt:1: a scenario begins with"),
        ("# t\n", r"some.txt: no steps"),
        ("# t\nlink loss 101%", "some.txt:2: 101% is more than all"),
        ("# t\nevery: 0 ms\npower on", "some.txt:2: a board counts every 1 ms"),
        ("# t\nlink loss much", r"some.txt:2: 'link loss much' is no step"),
    ],
)
def test_what_nobody_understands_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        parse(text, FILE)


class Told:
    """A board and a gateway that are what the test says."""

    device = "b"
    running = True

    def __init__(self) -> None:
        self.config = BoardConfig("b", "k")
        self.there: list[Record] = []
        self.more: list[Record] = []
        self.after_reset: list[Record] = []
        self.answer: Reply | None = Reply(0, None)
        self.stored = BoardJournal()

    async def start(self) -> None:
        self.there += self.more

    async def stop(self) -> None:
        """It has no power anyway."""

    async def kill(self) -> None:
        """Nor does it lose any."""

    async def reset(self) -> None:
        self.there += self.after_reset

    def log(self) -> str:
        return "the gateway's word"

    def logs(self) -> str:
        return "what it said"

    def journal(self, *, last_start: bool = False) -> BoardJournal:
        return self.stored

    async def records(self) -> list[Record]:
        return self.there

    async def connected(self) -> bool:
        return True

    async def order(self, name: str, args: Any) -> str:
        return "1"

    async def reply(self, command: str) -> Reply | None:
        return self.answer


def event(seq: int, name: str = "count", data: object = None, boot: str = "x") -> Record:
    return Record("event", f"b/{boot}/{seq}", name, data)


async def run(told: Told, text: str) -> None:
    await Bench(told, Faults(1), told).run(parse("# t\n" + text, FILE))


GOOD = [event(0), event(1, "button", {"button": "a"}), event(2), event(0, boot="y")]


async def test_a_run_passes_where_all_comes_about() -> None:
    told = Told()
    told.more = GOOD
    told.stored.acknowledged = {"b/x/1"}
    steps = 'power on\nexpect 4 events\nexpect event button {"button": "a"}\nexpect connected\nexpect log "it said"\n'
    await run(told, steps + "expect each reading once\ncommand pin\nexpect reply ok")


async def test_a_reset_is_seen_by_events_of_a_new_start() -> None:
    told = Told()
    told.more = [event(0), event(1)]
    steps = "power on\nexpect 2 events\nreset\nexpect restart within 0 s"
    with pytest.raises(Failed, match="no event of a new start came"):
        await run(told, steps)
    told.there.clear()
    told.after_reset = [event(2)]
    with pytest.raises(Failed, match="no event of a new start came"):
        await run(told, steps)
    told.there.clear()
    told.after_reset = [event(2), event(0, boot="y")]
    await run(told, steps)


async def test_a_board_that_ends_is_not_waited_for() -> None:
    told = Told()
    told.running = False
    with pytest.raises(Failed, match=r"some.txt:3: expect 1 events within 1000 s\nthe board runs no more"):
        await run(told, "power on\nexpect 1 events within 1000 s")


async def test_what_a_board_cannot_do_is_told_with_its_line_and_what_to_do() -> None:
    told = Told()

    async def press(_: str) -> None:
        raise BoardError("there is no button 'x'", hint="Its buttons are a and b.")

    told.press = press  # type: ignore[attr-defined]
    with pytest.raises(Failed, match=r"some.txt:2: press x\nthere is no button 'x' \(Its buttons are a and b.\)"):
        await run(told, "press x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("power on\nexpect 5 events within 0 s", "some.txt:3: expect 5 events"),
        ('power on\nexpect event button {"button": "b"} within 0 s', "then: .{'button': 'a'}"),
        ("power on\nexpect event bell within 0 s", "did not come about in 0 s: none of this kind"),
        ("power on\nexpect 9 events within 0 s", "4 came"),
        ("expect disconnected within 0 s", "the gateway takes it for connected"),
        ("expect disconnected within 0 s", "the gateway's word"),
        ("power on\nlink good\nexpect 1 events within 0 s", "seen: 3 event count, 1 event button"),
        ("expect disconnected within 0 s", "what it said"),
        ('expect log "nonsense" within 0 s', "did not come about"),
        ("expect reply ok", "there is no command"),
        ("command pin\nexpect reply failed", "the reply is Reply"),
    ],
)
async def test_a_run_says_what_did_not_come_about(text: str, message: str) -> None:
    told = Told()
    told.more = GOOD
    with pytest.raises(Failed, match=message):
        await run(told, text)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([event(0), event(0)], "there twice"),
        ([event(0), event(2)], r"these are missing: \[1\]"),
        ([event(0), Record("dead-letter", "", "broken", None)], "could not read"),
        ([event(0)], "told that these are stored"),
    ],
)
async def test_each_reading_once(records: list[Record], message: str) -> None:
    told = Told()
    told.more = records
    told.stored.acknowledged = {"b/x/0", "b/x/1"} if message.startswith("told") else set()
    with pytest.raises(Failed, match=message):
        await run(told, "power on\nexpect each reading once")
