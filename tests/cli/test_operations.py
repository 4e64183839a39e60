"""What an operator types, against a real gateway, and what the terminal shows; in the order of a working day."""

from __future__ import annotations

import json
import re

import pytest

from tests.cli.conftest import Gateway

OVERHEAT = "greenhouse.overheat"


def ids(gateway: Gateway, kind: str) -> list[str]:
    lines = gateway.says("tail", "--after", "-1", "--no-follow", "--type", kind, "--json").splitlines()
    return [json.loads(line)["id"] for line in lines]


@pytest.mark.parametrize(
    ("arguments", "says", "hint"),
    [
        (("flow", "pause", "greenhouse.overhaet"), "there is no flow 'greenhouse.overhaet'", OVERHEAT),
        (("flow", "rewind", "greenhouse", "--since", "1h"), "there is no flow 'greenhouse'", "greenhouse."),
        (("flow", "release", OVERHEAT, "gh-1"), "does not hold 'gh-1' back", ""),
        (("flow", "rewind", OVERHEAT), "from where?", "--since"),
        (("flow", "rewind", OVERHEAT, "--since", "yesterday"), "'yesterday' is not a moment", "earliest"),
        (("flow", "rewind", OVERHEAT, "--to", "3", "--since", "1h"), "two places", "one of them"),
        (("flow", "rewind", OVERHEAT, "--to", "99999"), "there is no record 99999 yet", ""),
        (("flow", "scale", OVERHEAT, "65"), "1 to 64 lanes", ""),
        (("flow", "rate", OVERHEAT, "fast"), "'fast' is not a rate", "off"),
        (("flow", "rate", OVERHEAT, "0"), "above 0", ""),
        (("flow", "replay", "greenhouse.shape", "--since", "1h"), "is a route", "functions"),
        (("dead", "list", "--flow", "greenhouse.overhat"), "there is no flow", OVERHEAT),
        (("dead", "list", "--device", "gh-11"), "there is no device 'gh-11'", "'gh-1'"),
        (("dead", "show", "0"), "no dead letter at 0", ""),
        (("dead", "retry"), "say which dead letters", "--all"),
        (("device", "rotate", "gh-11"), "gh-11", "gh-1"),
        (("tail", "--device", "gh-11"), "there is no device 'gh-11'", "'gh-1'"),
        (("trace", "gh-1"), "'gh-1' is not the id", "edge tail"),
        (("trace", "f" * 32), "there is no event or command", "edge tail"),
        (("deploy", "grenhouse.py"), "grenhouse.py", ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_gets_a_sentence_and_status_1(
    gateway: Gateway, arguments: tuple[str, ...], says: str, hint: str
) -> None:
    ended = gateway.edge(*arguments)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("edge: ")
    assert says in ended.stderr
    assert hint in ended.stderr
    assert "Traceback" not in ended.stderr


def test_figures_are_what_prometheus_reads(gateway: Gateway) -> None:
    heads: dict[str, str] = {}
    samples: dict[str, float] = {}
    lines = gateway.says("status", "--prometheus").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            name = line.split()[2]
            assert name not in heads, "the samples of a metric stand together"
            heads[name] = lines[number + 1].removeprefix(f"# TYPE {name} ")
        elif not line.startswith("# TYPE "):
            found = re.fullmatch(r'([a-z_]+)(\{[a-z]+="[^"\n]*"(?:,[a-z]+="[^"\n]*")*\})? (\S+)', line)
            assert found, line
            assert found[1] == name
            samples[found[1] + (found[2] or "")] = float(found[3])
    assert {name for name, kind in heads.items() if kind == "counter"} == {n for n in heads if n.endswith("_total")}
    assert set(heads.values()) == {"counter", "gauge"}
    assert samples['edge_health{state="degraded"}'] == 1
    assert samples['edge_door_acknowledged_total{door="mqtt"}'] == 4
    assert samples['edge_flow_dead_letters_total{flow="greenhouse.overheat"}'] == 1
    assert samples['edge_flow_state{flow="greenhouse.shape",state="waiting"}'] == 1
    assert samples["edge_devices"] == 1


def test_status_says_how_it_is(gateway: Gateway) -> None:
    found = gateway.json("status")
    assert found["door"]["acknowledged"] == found["door"]["messages"] == 4
    assert 0 < found["door"]["p50"] <= found["door"]["p99"]
    assert found["health"]["state"] == "degraded"
    (reason,) = found["health"]["reasons"]
    assert reason.startswith("flow greenhouse.shape waits: http://127.0.0.1:9/")
    text = gateway.says("status")
    assert "Health: flow greenhouse.shape waits" in text
    assert "4 messages, 4 acknowledged (p50 " in text
    doctor = gateway.edge("doctor")
    assert doctor.returncode == 1
    assert "look health: flow greenhouse.shape waits" in doctor.stdout


def test_flows_are_listed(gateway: Gateway) -> None:
    rows = {row["flow"]: row for row in gateway.json("flow", "list")}
    assert rows[OVERHEAT]["state"] == "running"
    shape = rows["greenhouse.shape"]
    assert (shape["state"], shape["route"]["delivered"]) == ("waiting", 0)
    assert shape["lag"] > 0
    assert shape["lag_us"] > 0
    assert "greenhouse.shape waits:" in gateway.says("flow", "list")


def test_pause_scale_and_rate(gateway: Gateway) -> None:
    assert f"{OVERHEAT} is paused" in gateway.says("flow", "pause", OVERHEAT)
    assert "4 lanes" in gateway.says("flow", "scale", OVERHEAT, 4)
    assert "at most 50 events/s" in gateway.says("flow", "rate", OVERHEAT, 50)
    assert gateway.json("flow", "rate", OVERHEAT, "off")["rate_limit"] is None
    assert gateway.json("flow", "resume", OVERHEAT)["state"] == "running"
    assert gateway.json("flow", "scale", OVERHEAT, 1)["lanes"] == 1


def test_a_trace_from_either_end(gateway: Gateway) -> None:
    event = next(identity for identity in ids(gateway, "event") if identity.endswith("/1"))
    text = gateway.says("trace", event)
    first, *rest = text.splitlines()
    assert first.startswith(f"event climate {event} ")
    assert first.endswith("this one")
    assert "├── route greenhouse.shape: waiting" in rest
    assert any(line.startswith("└── event alarm ") for line in rest)
    siren = next(line.split()[3] for line in rest if "command siren" in line)
    tree = gateway.json("trace", siren)
    assert tree["root"]["id"] == event
    assert tree["root"]["effects"][0]["effects"][0]["asked"]


def test_a_newer_command_with_the_same_key_replaces_the_older(gateway: Gateway) -> None:
    event = next(identity for identity in ids(gateway, "event") if identity.endswith("/1"))
    (fan,) = [node for node in gateway.json("trace", event)["root"]["effects"] if node["name"] == "fan"][:1]
    assert fan["state"] == "replaced"
    assert "replaced" in gateway.says("trace", fan["id"])


def test_a_dry_run_compares(gateway: Gateway) -> None:
    found = gateway.json("flow", "replay", OVERHEAT, "--since", "1h", "--limit", 3)
    assert (found["events"], found["changed"], found["new"], found["missing"]) == (3, 0, 0, 0)
    assert "Effects: 5 the same, 0 changed, 0 new, 0 missing." in gateway.says(
        "flow", "replay", OVERHEAT, "--since", "earliest"
    )


def test_dead_letters_from_list_to_drop(gateway: Gateway) -> None:
    (letter,) = gateway.json("dead", "list")["letters"]
    offset = letter["offset"]
    text = gateway.says("dead", "list", "--flow", OVERHEAT, "--device", "gh-1", "--reason", "error")
    assert f"{offset}  " in text
    assert "ValueError: that cannot be" in text
    shown = gateway.says("dead", "show", offset)
    assert f"{offset}, open" in shown
    assert "error, after 3 tries" in shown
    assert '{"temperature":99}' in shown
    assert gateway.json("dead", "show", offset)["letter"] == letter
    (line,) = gateway.says("dead", "export").splitlines()
    assert json.loads(line)["data"] == {"temperature": 99.0}
    assert "Handed to their flows again: 1" in gateway.says("dead", "retry", offset)
    gateway.until(OVERHEAT)
    ended = gateway.edge("dead", "retry", offset)
    assert ended.returncode == 1
    assert f"dead letter {offset} is settled already" in ended.stderr
    (again,) = gateway.json("dead", "list")["letters"]
    assert again["event"] == letter["event"]
    assert gateway.json("dead", "drop", again["offset"])["letters"] == [again["offset"]]
    assert gateway.says("dead", "list") == "Open: 0 dead letters.\n"


def test_a_rewind_and_a_bootstrap_send_nothing(gateway: Gateway) -> None:
    commands = ids(gateway, "command")
    assert "nothing is sent to the outside" in gateway.says("flow", "rewind", OVERHEAT, "--since", "1h")
    found = gateway.json("flow", "bootstrap", OVERHEAT)
    assert (found["first"], found["send"], found["epoch"]) == (0, False, 2)
    gateway.until(OVERHEAT)
    assert ids(gateway, "command") == commands
    found = gateway.json("flow", "rewind", OVERHEAT, "--to", "0", "--send")
    assert found["send"] is True
    gateway.until(OVERHEAT)
    assert len(ids(gateway, "command")) > len(commands)


def test_a_full_journal_is_said_everywhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    full = Gateway(tmp_path_factory.mktemp("f"), '[journal]\nmax_size = "16MiB"\n')
    try:
        full.up()
        key = full.json("device", "add", "gh-1")["key"]
        assert full.json("status")["health"]["state"] == "ok"
        blob = "x" * 200_000
        answers = full.send("gh-1", key, *[blob] * 200)  # type: ignore[arg-type]
        assert b"" in answers, "it stops acknowledging"
        found = full.json("status")
        assert found["health"]["state"] == "full"
        assert found["door"]["refused"] > 0
        assert "Health: storage full: acknowledgements stopped" in full.says("status")
        doctor = full.edge("doctor")
        assert doctor.returncode == 1
        assert "look health: storage full" in doctor.stdout
    finally:
        full.end()
