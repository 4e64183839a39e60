"""Attempts to get out of the native tier, where the jail is the only wall: as root, dropped, and without root."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edge_runtime

from .native_attempts import FORGED, HARM, KILLED, MARK, REFUSED, SEEN

NOBODY = 65534
ROOT = Path(__file__).resolve().parent.parent.parent

REFUSALS = (
    *("PermissionError: [Errno 1]", "itimer_error: [Errno 1]", "URLError: <urlopen error [Errno 1]", "gaierror"),
    *(
        "ValueError: not allowed to raise",
        "RuntimeError: can't start new thread",
        "RuntimeError: a function cannot sleep",
    ),
    *("KeyError: ", "IndexError: ", "ModuleNotFoundError: ", "ImportError: /x.so: cannot open"),
)
"""How what was tried is refused, so that an attempt with a slip of its own does not count as one."""

Found = dict[str, Any]


def _tried(user: list[str], *arguments: str) -> Found:
    folders = [str(ROOT), *(folder for folder in sys.path if folder)]
    script = f"import sys; sys.path[:0] = {folders!r}; import runpy; "
    script += "runpy.run_module('tests.functions.native_attempts', run_name='__main__')"
    done = subprocess.run(
        [*user, sys.executable, "-c", script, *arguments],
        env={"EDGE_TEST_SECRET": "secret"},
        cwd="/",
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found: Found = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module", params=["root", "ordinary", "seccomp_alone"])
def tried(request: pytest.FixtureRequest) -> Found:
    """The outcomes of all attempts, with a gateway of either user, and by one whom seccomp alone holds."""
    if request.param == "seccomp_alone":
        return _tried([], "bare")
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("needs to be root to drop root")
        return _tried([])
    if os.geteuid() != 0:
        return _tried([])
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    itself = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'open({edge_runtime.__file__!r})'], check=True)"
    )
    probe = [*user, sys.executable, "-c", itself]
    if subprocess.run(probe, capture_output=True, env={}, cwd="/", check=False).returncode != 0:
        # This interpreter stands where only root can read. It may read there too, and is still not root.
        user += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return _tried(user)


@pytest.mark.parametrize("attempt", REFUSED)
def test_native_escape_is_refused(tried: Found, attempt: str) -> None:
    outcome = tried[attempt]
    assert (outcome["type"], outcome.get("reason")) == ("failed", "error"), outcome
    assert outcome["detail"].startswith(REFUSALS), outcome
    assert outcome["neighbour"]


@pytest.mark.parametrize("attempt", KILLED)
def test_native_escape_by_a_telling_system_call_is_the_end(tried: Found, attempt: str) -> None:
    outcome = tried[attempt]
    assert (outcome["type"], outcome.get("reason")) == ("failed", "crash"), outcome
    assert "a system call that no function may make" in outcome["detail"]
    assert outcome["neighbour"]


@pytest.mark.parametrize("attempt", HARM)
def test_native_escape_from_the_limits_is_stopped_and_named(tried: Found, attempt: str) -> None:
    _, reason, says = HARM[attempt]
    outcome = tried[attempt]
    assert outcome["type"] == "failed", outcome
    assert outcome["reason"] == reason or (not reason and outcome["reason"] in ("crash", "memory", "timeout")), outcome
    assert says in outcome["detail"]
    assert "/" not in outcome["detail"], "only the user's own file is named"
    assert outcome["micros"] < 1_000_000
    assert outcome["neighbour"]


@pytest.mark.parametrize("attempt", FORGED)
def test_native_escape_by_forged_replies_reaches_nobody_else(tried: Found, attempt: str) -> None:
    outcome = tried[attempt]
    assert (outcome["type"], outcome["effects"], outcome["value"]) == ("ok", [], None), outcome
    assert outcome["neighbour"]


def test_native_escape_attempts_meet_nothing_that_was_left_behind(tried: Found) -> None:
    """Harmless questions: what is there to be found."""
    seen = {name: tried[name]["effects"][0]["data"] for name in SEEN}
    assert seen["descriptors"] == [0, 1, 2, 3], "the standard ones, which are /dev/null, and the channel"
    assert seen["neighbour"] == 0, f"another app's {MARK!r}"
    assert seen["user"] == "refused"
    assert seen["path"] == [""]
    assert seen["modules"] == []
    assert len(seen["random"]) == 16


def test_native_escape_attempts_cost_the_executor_nothing(tried: Found) -> None:
    executor = tried["_executor"]
    assert executor["restarts"] == 0
    assert executor["jail"]["seccomp"]
    if executor["jail"]["missing"] == ["everything but seccomp"]:
        assert executor["jail"]["uid"] == os.geteuid()
        assert executor["jail"]["landlock"] == 0
    else:
        assert executor["jail"]["uid"] != 0
