"""Roll-outs: their steps, and what reports of devices make of them."""

from __future__ import annotations

import msgspec
import pytest

from devices.rollouts import ABORTED, DONE, PAUSED, RUNNING, Rollout, Stand, Told, order, steps_of
from edge_runtime.errors import EdgeError

RELEASE = "ab" * 32
DEVICES = [f"d{n}" for n in range(10)]


def rollout(**changes: object) -> Rollout:
    made = Rollout(7, RELEASE, "greenhouse", "1.2", DEVICES, [1, 5, 10], 0)
    return msgspec.structs.replace(made, **changes)


def runs(at: int = 1) -> Told:
    return Told(at, running=RELEASE)


def failed(state: str = "failed", number: int = 7) -> Told:
    return Told(1, state, subject=RELEASE, number=number)


@pytest.mark.parametrize(
    ("count", "canary", "shares", "steps"),
    [
        (1, 1, [], [1]),
        (10, 1, [], [1, 10]),
        (10, 2, [25, 50], [2, 3, 5, 10]),
        (3, 1, [10, 20, 50], [1, 2, 3]),
        (10, 10, [], [10]),
        (10, 1, [100], [1, 10]),
        (1000, 100, [5, 50], [100, 500, 1000]),
    ],
)
def test_steps(count: int, canary: int, shares: list[int], steps: list[int]) -> None:
    assert steps_of(count, canary, shares) == steps


@pytest.mark.parametrize("shares", [[0], [101], [50, 25], [25, 25]])
def test_steps_that_are_none(shares: list[int]) -> None:
    with pytest.raises(EdgeError, match="per cent"):
        steps_of(10, 1, shares)


def test_the_order_is_by_chance_and_always_the_same() -> None:
    assert order(DEVICES, 7) == order(reversed(DEVICES), 7)
    assert order(DEVICES, 7) != order(DEVICES, 8)
    assert sorted(order(DEVICES, 7, ["d3"])) == sorted(DEVICES)
    assert order(DEVICES, 7, ["d3", "d1"])[:2] == ["d3", "d1"]
    assert sorted(order(DEVICES, 7, ["d3", "d3"])) == sorted(DEVICES)


@pytest.mark.parametrize(
    ("told", "stand"),
    [
        (None, Stand.DUE),
        (Told(1), Stand.DUE),
        (Told(1, running="cd" * 32), Stand.DUE),
        (Told(1, "fetching", number=7), Stand.FETCHING),
        (Told(1, "fetching", number=6), Stand.DUE),
        (Told(1, "on trial", running=RELEASE, number=7), Stand.TRIAL),
        (runs(), Stand.RUNS),
        (Told(1, "fetching", running=RELEASE, number=8), Stand.RUNS),
        (failed(), Stand.FAILED),
        (failed(number=6), Stand.DUE),
        (failed("rolled back"), Stand.ROLLED_BACK),
        (failed("rolled back", 6), Stand.DUE),
    ],
)
def test_where_a_device_stands(told: Told | None, stand: Stand) -> None:
    assert rollout().stand("d0", told) is stand
    expected = Stand.WAITS if stand is Stand.DUE else stand
    assert rollout().stand("d9", told) is expected


def test_each_step_waits_for_all_of_its_devices() -> None:
    told: dict[str, Told] = {}
    now = rollout()
    assert now.moved(told, 1) == now
    told["d5"] = runs()
    assert now.moved(told, 2) == now, "it is not its turn"
    told["d0"] = runs()
    now = now.moved(told, 3)
    assert (now.step, now.allowed) == (1, DEVICES[:5])
    told |= {device: runs() for device in DEVICES[1:4]}
    assert now.moved(told, 4) == now
    told["d4"] = runs()
    now = now.moved(told, 5)
    assert now.step == 2
    told |= {device: runs() for device in DEVICES}
    now = now.moved(told, 6)
    assert (now.state, now.ended) == (DONE, 6)
    assert now.moved(told, 7) == now


def test_a_step_has_to_stand_for_a_while() -> None:
    now = rollout(soak=100)
    told = {"d0": runs()}
    now = now.moved(told, 10)
    assert (now.step, now.settled) == (0, 10)
    assert now.moved(told, 109) == now
    assert now.moved({"d0": Told(1)}, 109).settled == 0, "it has left the release meanwhile"
    now = now.moved(told, 110)
    assert (now.step, now.settled) == (1, 0)


@pytest.mark.parametrize("state", ["failed", "rolled back"])
def test_too_many_failures_pause_it(state: str) -> None:
    paused = rollout().moved({"d0": failed(state)}, 1)
    assert (paused.state, paused.why, paused.step) == (PAUSED, "1 of 1 devices have failed", 0)
    assert paused.moved({"d0": runs()}, 2) == paused, "a person has to look"
    tolerant = rollout(tolerated=1, step=1)
    told = {"d0": failed(state)} | {device: runs() for device in DEVICES[1:5]}
    assert tolerant.moved(told, 1).step == 2
    told["d1"] = failed(state)
    assert tolerant.moved(told, 1).state == PAUSED


def test_what_was_forgiven_does_not_pause_it_again() -> None:
    told = {"d0": failed()}
    paused = rollout().moved(told, 1)
    again = paused.resumed(told, 2)
    assert (again.state, again.forgiven, again.why) == (RUNNING, 1, "")
    again = again.moved(told, 3)
    assert (again.state, again.step) == (RUNNING, 1)
    told["d1"] = failed()
    assert again.moved(told, 4).state == PAUSED


def test_looking_at_many_devices_asks_for_each_once() -> None:
    """Ten thousand devices and their steps: no search through all of them for each of them."""

    class Devices(list[str]):
        asked = 0

        def __contains__(self, device: object) -> bool:
            Devices.asked += 1
            return super().__contains__(device)

        def __getitem__(self, at: object) -> object:  # type: ignore[override]
            return Devices(super().__getitem__(at))  # type: ignore[call-overload]

    now = rollout(devices=Devices(DEVICES), step=1)
    assert now.moved({}, 1) == now
    stands = dict(now.stands({"d1": runs()}))
    assert [stands[device] for device in DEVICES[:5]] == [Stand.DUE, Stand.RUNS, Stand.DUE, Stand.DUE, Stand.DUE]
    assert {stands[device] for device in DEVICES[5:]} == {Stand.WAITS}
    assert stands == {device: now.stand(device, runs() if device == "d1" else None) for device in DEVICES}
    assert Devices.asked == 9, "by the last line alone"


def test_nobody_waits_for_a_device_that_was_removed() -> None:
    now = rollout()
    assert now.moved({}, 1, {"d5"}) == now
    now = now.moved({}, 2, {"d0"})
    assert (now.state, now.step) == (RUNNING, 1)
    now = now.moved({}, 3, set(DEVICES)).moved({}, 4, set(DEVICES))
    assert now.state == DONE


def test_going_on_without_who_is_missing() -> None:
    now = rollout().resumed({}, 1, go_on=True)
    assert (now.state, now.step) == (RUNNING, 1)
    now = now.paused().resumed({}, 2, go_on=True).resumed({}, 3, go_on=True)
    assert (now.state, now.ended) == (DONE, 3)


def test_what_is_over_is_over() -> None:
    aborted = rollout().aborted(5)
    assert (aborted.state, aborted.ended) == (ABORTED, 5)
    assert aborted.moved({"d0": runs()}, 6) == aborted
    for change in (
        aborted.paused,
        lambda: aborted.resumed({}, 6),
        lambda: aborted.aborted(6),
        lambda: rollout().resumed({}, 1),
        lambda: rollout().paused().paused(),
    ):
        with pytest.raises(EdgeError, match="the roll-out 7 is"):
            change()
