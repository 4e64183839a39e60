"""Updates on the board: the power cut at every operation and every byte, and everything that an offer can have wrong.

The firmware's own files run here, in CPython, over a simulated flash.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime import wire_ota
from tests.firmware.ota_board import Board, Gateway, Readings, Version, firmware, fresh
from tests.firmware.simulated_flash import PowerCut

OLD = Version(
    "1.0", {"main.py": b"print(1)\n" * 8, "lib/kept.py": b"# the same in both\n" * 5, "lib/gone.py": b"# not in 2\n"}
)
NEW = Version(
    "2.0",
    {
        "main.py": b"print(2)\n" * 20,
        "lib/kept.py": b"# the same in both\n" * 5,
        "lib/new/__init__.py": b"",
        "lib/new/part.py": b"# only in 2\n" * 6,
    },
)


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[Any, Any]]:
    with firmware() as found:
        yield found


def update(board: Board, gateway: Gateway, *, starts: int = 20) -> None:
    """Start the board until it is through; at each start its slot holds one whole version, and only that."""
    for _ in range(starts):
        slot = board.start()
        assert board.files(slot) in (OLD.files, gateway.offered.files), f"slot {slot} is of no version"
        if not board.run(gateway):
            return
    raise AssertionError(f"{starts} starts did not do")


@pytest.mark.parametrize("cached", [False, True])
def test_an_update(modules: tuple[Any, Any], cached: bool) -> None:
    board = Board(modules, fresh(OLD, cached=cached))
    gateway = Gateway(NEW)
    update(board, gateway)
    assert board.starts == [0, 1]
    assert board.files(1) == NEW.files
    assert board.files(0) == OLD.files, "the way back"
    asked = {digest for digest, _ in gateway.asked}
    changed = {digest for digest, data in NEW.content.items() if data and data != NEW.files["lib/kept.py"]}
    assert asked == changed, "what is the same is not fetched, nor is what is empty"
    assert [r.state for r in gateway.reports] == [wire_ota.IDLE, wire_ota.FETCHING, wire_ota.TRIAL, wire_ota.IDLE]
    assert gateway.reports[-1].running == NEW.id


def test_an_update_after_an_update_takes_the_first_slot(modules: tuple[Any, Any]) -> None:
    board = Board(modules, fresh(OLD))
    update(board, Gateway(NEW))
    third = Version("3.0", NEW.files | {"main.py": b"print(3)\n"})
    again = Gateway(third, number=8)
    board.start()
    assert board.run(again)
    assert board.start() == 0
    assert board.files(0) == third.files
    assert not board.run(again)
    assert {digest for digest, _ in again.asked} >= {third.id}


@pytest.mark.parametrize("cached", [False, True])
def test_power_cut_at_every_operation_and_byte(modules: tuple[Any, Any], cached: bool) -> None:
    original = fresh(OLD, cached=cached)
    board = Board(modules, original.copy())
    update(board, Gateway(NEW))
    total = board.flash.spent
    assert total > 700
    for cut in range(total):
        flash = original.copy()
        flash.left = cut
        board = Board(modules, flash)
        gateway = Gateway(NEW)
        with pytest.raises(PowerCut):
            update(board, gateway)
        flash.left = None
        update(board, gateway)
        assert board.files(board.boot.running) == NEW.files, f"cut at {cut}"
        assert board.boot.state()[board.boot.MODE] == board.boot.CONFIRMED


@pytest.mark.parametrize("cached", [False, True])
def test_power_cut_again_and_again(modules: tuple[Any, Any], cached: bool) -> None:
    """Power for a little longer each time: whatever was reached is not lost, and it comes to an end."""
    flash = fresh(OLD, cached=cached)
    board = Board(modules, flash)
    gateway = Gateway(NEW)
    for power in range(10, 2000, 10):
        flash.left = power
        try:
            update(board, gateway)
        except PowerCut:
            continue
        break
    flash.left = None
    update(board, gateway)
    assert board.files(board.boot.running) in (OLD.files, NEW.files)
    last = gateway.reports[-1]
    assert last.running == NEW.id or last.state == wire_ota.ROLLED_BACK


def test_resuming_asks_only_for_what_is_missing(modules: tuple[Any, Any]) -> None:
    large = Version("2.0", OLD.files | {"main.py": bytes(range(256)) * 16})
    flash = fresh(OLD)
    board = Board(modules, flash)
    gateway = Gateway(large)
    flash.left = 3000
    with pytest.raises(PowerCut):
        update(board, gateway)
    before = len(gateway.asked)
    flash.left = None
    update(board, gateway)
    resumed = [at for digest, at in gateway.asked[before:] if digest != large.id]
    assert min(resumed) > 2000
    assert board.files(board.boot.running) == large.files


def test_one_that_crashes_is_given_three_starts(modules: tuple[Any, Any]) -> None:
    board = Board(modules, fresh(OLD))
    gateway = Gateway(NEW)
    board.start()
    assert board.run(gateway)
    for _ in range(3):
        assert board.start() == 1  # and crashes at once
    with board.flash.open(board.boot.REPORT, "w") as file:
        file.write("ImportError: no module named 'bme280'")
    assert board.start() == 0
    asked = len(gateway.asked)
    assert not board.run(gateway)
    last = gateway.reports[-1]
    assert (last.state, last.subject, last.number) == (wire_ota.ROLLED_BACK, NEW.id, 7)
    assert last.detail == "it was not confirmed in its starts: ImportError: no module named 'bme280'"
    assert len(gateway.asked) == asked, "going back needs no download"
    assert board.files(0) == OLD.files


def test_one_that_is_not_answered_in_its_time_goes_back(modules: tuple[Any, Any]) -> None:
    board = Board(modules, fresh(OLD))
    gateway = Gateway(NEW)
    gateway.silent = True
    board.start()
    assert board.run(gateway)
    assert board.start() == 1
    assert board.run(gateway), "it resets itself"
    assert board.start() == 0
    assert not board.run(gateway)
    assert gateway.reports[-1].detail.startswith("it was not confirmed in its time")


@pytest.mark.parametrize("virtual", [True, False])
def test_one_that_hangs_is_ended_by_a_timer(
    modules: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, virtual: bool
) -> None:
    boot, _ = modules
    set_up: list[dict[str, Any]] = []
    resets: list[bool] = []

    class Timer:
        ONE_SHOT = 0

        def __init__(self, number: int) -> None:
            if number < 0 and not virtual:
                raise ValueError("Timer doesn't exist")

        def init(self, **options: Any) -> None:
            set_up.append(options)

        def deinit(self) -> None:
            set_up.clear()

    machine = SimpleNamespace(Timer=Timer, reset=lambda: resets.append(True))
    monkeypatch.setitem(sys.modules, "machine", machine)
    Board(modules, fresh(OLD))
    boot.switch(1, 7, 3, 60)
    boot._guard(60)
    assert set_up[0]["period"] == 90_000
    set_up[0]["callback"](None)
    assert resets == [True]
    assert boot.state()[boot.SLOT :] == (0, boot.CONFIRMED, 0, boot.LATE, 7, 0)
    boot._guard(60)
    boot.confirm()
    assert set_up == [], "who is confirmed is left alone"
    monkeypatch.setattr(boot, "_timer", None)


def test_a_flash_that_takes_nothing_starts_the_old_version(
    modules: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    boot, _ = modules
    board = Board(modules, fresh(OLD))
    gateway = Gateway(NEW)
    board.start()
    assert board.run(gateway)

    def full(path: str, mode: str = "r") -> Any:
        if "r" in mode:
            return board.flash.open(path, mode)
        raise OSError(28, path)

    monkeypatch.setattr(boot, "open", full)
    assert board.start() == 0
    assert boot.state()[boot.MODE] == boot.TRIAL
    boot._note(ValueError("nowhere to write this"))


def test_a_slot_without_a_program_is_not_started(modules: tuple[Any, Any]) -> None:
    boot, _ = modules
    board = Board(modules, fresh(OLD))
    boot.switch(1, 7, 3, 60)
    assert board.start() == 0
    assert boot.state()[boot.MODE :] == (boot.CONFIRMED, 0, boot.STARTS, 7, 0)
    board.flash.folders.add("/b")
    board.flash.files = {"/b/main.mpy": b"M"} | {n: r for n, r in board.flash.files.items() if n.startswith("/ota")}
    assert board.start() == 1, "the other one is better than none"


def test_an_offer_that_was_tried_is_not_tried_again(modules: tuple[Any, Any]) -> None:
    board = Board(modules, fresh(OLD))
    gateway = Gateway(NEW)
    gateway.silent = True
    board.start()
    board.run(gateway)
    board.start()
    board.run(gateway)
    gateway.silent = False
    board.start()
    board.run(gateway)
    older = Gateway(NEW, number=6)
    assert not board.run(older)
    assert older.reports[-1].detail == "the offer is not newer than one that was taken"
    assert not older.asked
    newer = Gateway(NEW, number=8)
    assert board.run(newer)
    assert board.start() == 1
    assert not board.run(newer)


def refused(
    modules: tuple[Any, Any], version: Version = NEW, *, blocks: int = 1000, **options: Any
) -> tuple[str, Board]:
    """What a board says to an offer that it does not take."""
    board = Board(modules, fresh(OLD, blocks=blocks))
    gateway = Gateway(version, **options)
    board.start()
    assert not board.run(gateway)
    last = gateway.reports[-1]
    assert (last.state, last.subject, last.number) == (wire_ota.FAILED, version.id, 7)
    assert board.files(0) == OLD.files
    assert board.start() == 0
    return last.detail, board


def test_an_offer_that_somebody_else_signed(modules: tuple[Any, Any]) -> None:
    why, board = refused(modules, key=bytes(32))
    assert why == "the offer is not signed with this board's key"
    assert not [name for name in board.flash.files if name.startswith("/b")]


def test_a_flash_that_is_short_is_noticed_before_anything_is_fetched(modules: tuple[Any, Any]) -> None:
    large = Version("2.0", OLD.files | {"main.py": bytes(20_000)})
    why, board = refused(modules, large, blocks=200)
    assert why.startswith("the flash is short: it needs 20 KB, and ")
    assert list(board.files(1)) == []


def test_what_another_update_left_makes_room(modules: tuple[Any, Any]) -> None:
    flash = fresh(OLD, blocks=100)
    flash.folders.add("/b")
    flash.files["/b/main.py"] = bytes(4000)
    flash.files["/b/.p0123456789abcdef"] = bytes(1000)
    board = Board(modules, flash)
    update(board, Gateway(NEW))
    assert board.files(1) == NEW.files


def test_another_platform_and_an_older_micropython(modules: tuple[Any, Any]) -> None:
    why, _ = refused(modules, Version("2.0", NEW.files, boards=["rp2", "esp32"]))
    assert why == "it is for rp2, esp32; this is linux"
    why, _ = refused(modules, Version("2.0", NEW.files, micropython="99.1"))
    assert why.startswith("it needs MicroPython 99.1; this is ")


@pytest.mark.parametrize(("damaged", "taken"), [(1, True), (200, False)])
def test_pieces_that_come_damaged(modules: tuple[Any, Any], damaged: int, taken: bool) -> None:
    board = Board(modules, fresh(OLD))
    gateway = Gateway(NEW)
    gateway.damage = damaged
    if taken:
        update(board, gateway)
        assert board.files(1) == NEW.files
    else:
        board.start()
        assert not board.run(gateway)
        assert gateway.reports[-1].detail == "what comes for .new is damaged"
        assert board.start() == 0


def test_an_old_offer_does_not_become_new_by_a_larger_number(modules: tuple[Any, Any]) -> None:
    """What is signed are 32 bits, and MicroPython cuts off what is beyond them without a word."""
    board = Board(modules, fresh(OLD))
    update(board, Gateway(NEW, number=8))
    replayed = Gateway(OLD, number=7 + (1 << 32))
    board.start()
    with pytest.raises(AssertionError, match="nothing came of it"):
        board.run(replayed, turns=200)
    assert replayed.asked == []
    assert board.start() == 1


@pytest.mark.parametrize("proof", [5, None, [b""]])
def test_an_offer_of_another_form_is_passed_over(modules: tuple[Any, Any], proof: object) -> None:
    board = Board(modules, fresh(OLD))
    gateway = Gateway(NEW)
    gateway.proof = proof
    board.start()
    with pytest.raises(AssertionError, match="nothing came of it"):
        board.run(gateway, turns=200)
    assert gateway.asked == []


def test_a_board_without_a_token_takes_no_offer(modules: tuple[Any, Any]) -> None:
    """It shows a JWT or a certificate: what stands in the token's place is known to everybody."""
    board = Board(modules, fresh(OLD))
    board.key = "-"
    _, ota = modules
    gateway = Gateway(NEW)
    gateway.proof = wire_ota.prove(ota._key_of("-"), 7, NEW.id, "gh-1")
    board.start()
    assert not board.run(gateway)
    assert gateway.reports[-1].detail == "this board has no token, with which an offer is signed"
    assert gateway.asked == []


def test_a_folder_that_became_a_file_leaves_nothing(modules: tuple[Any, Any]) -> None:
    """MicroPython imports a folder `fan`, even an empty one, rather than `fan.py`."""
    flash = fresh(OLD)
    flash.folders |= {"/b", "/b/lib", "/b/lib/fan", "/b/lib/fan/deep", "/b/lib/empty"}
    flash.files |= {"/b/main.py": b"print(0)\n", "/b/lib/fan/__init__.py": b"", "/b/lib/fan/deep/x.py": b"1\n"}
    board = Board(modules, flash)
    new = Version("2.0", {"main.py": b"import fan\n", "lib/fan.py": b"print(2)\n", "lib/kept/a.py": b"1\n"})
    update(board, Gateway(new))
    assert board.files(1) == new.files
    assert {folder for folder in flash.folders if folder.startswith("/b")} == {"/b", "/b/lib", "/b/lib/kept"}


def test_a_flash_that_takes_nothing_on_trial(modules: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The version cannot be confirmed: the board goes back after its time, and is not stuck."""
    boot, _ = modules
    board = Board(modules, fresh(OLD))
    gateway = Gateway(NEW)
    board.start()
    assert board.run(gateway)
    assert board.start() == 1

    def full(path: str, mode: str = "r") -> Any:
        if "r" in mode:
            return board.flash.open(path, mode)
        raise OSError(28, path)

    monkeypatch.setattr(boot, "open", full)
    assert board.run(gateway), "it resets itself"
    assert board.failed[0] == f"update: {OSError(28, '/ota.1')}"
    assert board.start() == 0
    resets: list[bool] = []
    monkeypatch.setattr(boot, "reset", lambda: resets.append(True))
    with pytest.raises(OSError, match="28"):
        boot._late(None)
    assert resets == [True]


def test_a_check_that_fails_does_not_agree(modules: tuple[Any, Any]) -> None:
    board = Board(modules, fresh(OLD))
    gateway = Gateway(Version("2.0", NEW.files, health=20))
    asked: list[bool] = []

    def busy() -> bool:
        asked.append(True)
        if len(asked) < 3:
            raise KeyError("pump")
        return True

    def broken() -> bool:
        raise ZeroDivisionError

    def prepare(ota: Any) -> None:
        ota.may_restart, ota.check = busy, broken

    board.prepare = prepare
    board.start()
    assert board.run(gateway), "it restarts when it may"
    assert len(asked) == 3
    assert board.start() == 1
    assert board.run(gateway), "it gives itself up in its time"
    assert board.start() == 0
    assert board.failed[0] == "update: 'pump'"


def test_a_program_that_goes_on_for_long_wears_no_flash(modules: tuple[Any, Any]) -> None:
    """Readings are put on the flash when the board may restart, not each time that it is asked."""
    board = Board(modules, fresh(OLD))
    settled: list[bool] = []

    def settle() -> bool:
        settled.append(True)
        return len(settled) > 2

    board.queue = Readings()
    board.queue.settle = settle
    asked: list[bool] = []

    def busy() -> bool:
        asked.append(True)
        return len(asked) > 500

    board.prepare = lambda ota: setattr(ota, "may_restart", busy)
    board.start()
    assert board.run(Gateway(NEW))
    assert len(settled) == 3
    assert 500 < len(asked) < 510


def test_readings_in_ram_are_waited_for_once_the_program_may_stop(modules: tuple[Any, Any]) -> None:
    board = Board(modules, fresh(OLD))
    board.queue = Readings(["a reading"])
    times: list[int] = []

    def prepare(ota: Any) -> None:
        def busy() -> bool:
            times.append(ota._core.hal.uptime())
            return times[-1] - times[0] > 100_000

        ota.may_restart = busy

    board.prepare = prepare
    board.start()
    assert board.run(Gateway(NEW))
    assert 160_000 < times[-1] - times[0] < 170_000, "a minute more"


def test_a_version_is_looked_at_as_a_whole_before_it_starts(
    modules: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was put in its place may have gone since: on FAT, with another whose name differs by case alone."""
    _, ota = modules
    replace = ota._replace

    def lost(source: str, target: str) -> None:
        replace(source, target)
        if target == "/b/main.py":
            ota.os.remove("/b/lib/kept.py")

    with monkeypatch.context() as patched:
        patched.setattr(ota, "_replace", lost)
        why, board = refused(modules)
    assert why == "the flash does not keep lib/kept.py"
    update(board, Gateway(NEW, number=8))
    assert board.files(1) == NEW.files


def test_pieces_and_readings_take_turns(modules: tuple[Any, Any]) -> None:
    """On a link with one packet on its way, each answered ask is followed by another at once."""
    _, ota = modules
    queue = Readings(["one", "another"])
    core = SimpleNamespace(_since=1, queue=queue, hal=SimpleNamespace(uptime=lambda: 5))
    updates = SimpleNamespace(_since=1, _core=core, _report=["", None, 2, None], _ask=b"?", _asked=0, _gave=False)

    def takes() -> bool:
        updates._asked = 0
        return ota.Ota.take(updates) is not None

    assert [takes() for _ in range(5)] == [True, False, True, False, True]
    queue.flying = 2
    assert [takes() for _ in range(3)] == [True, True, True], "nothing else waits"


def test_packets_may_be_larger_than_pieces(modules: tuple[Any, Any]) -> None:
    board = Board(modules, fresh(OLD), packet=200_000)
    large = Version("2.0", {"main.py": b"#" * 40_000})
    gateway = Gateway(large)
    update(board, gateway)  # which raises for an ask of more than 16 KiB
    assert board.files(1) == large.files


def test_a_path_out_of_the_slot_is_refused(modules: tuple[Any, Any]) -> None:
    _, ota = modules
    for path in ("/main.py", "../edge_boot.py", "lib/../../x", ".release"):
        with pytest.raises(ota.Refused):
            ota._file(f"file {'0' * 64} 1 {path}\n")


def test_one_that_has_to_store_a_reading(modules: tuple[Any, Any]) -> None:
    board = Board(modules, fresh(OLD))
    gateway = Gateway(Version("2.0", NEW.files, health=20, proof="event"))
    board.start()
    assert board.run(gateway)
    assert board.start() == 1
    assert board.run(gateway), "no reading was acknowledged: it gives itself up"
    assert board.start() == 0


def test_a_slot_record_cut_at_any_byte_leaves_the_other(modules: tuple[Any, Any]) -> None:
    boot, _ = modules
    board = Board(modules, fresh(OLD))
    boot.store(1, boot.CONFIRMED, 0, 0, 5, 0)
    boot.store(0, boot.CONFIRMED, 0, 0, 6, 0)
    before = boot.state()
    kept = dict(board.flash.files)
    for cut in range(22):
        board.flash.files = dict(kept)
        board.flash.left = cut
        with pytest.raises(PowerCut):
            boot.store(1, boot.TRIAL, 3, 0, 7, 300)
        board.flash.left = None
        assert boot.state() in (before, (3, 1, boot.TRIAL, 3, 0, 7, 300))


VECTORS = json.loads((Path(__file__).parents[1] / "vectors/ota.json").read_text("utf-8"))


def test_the_forms_as_the_vectors_have_them(modules: tuple[Any, Any]) -> None:
    _, ota = modules
    from edge_device import cbor  # type: ignore[import-not-found]  # what the fixture has loaded

    for case in VECTORS["offers"]:
        form = cbor.decode(bytes.fromhex(case["hex"]))
        assert form[0].hex() == case["release"]
        assert (form[1], form[2], [proof.hex() for proof in form[3]]) == (case["size"], case["number"], [case["proof"]])
        text = b"edge ota\0" + case["number"].to_bytes(4) + form[0] + case["device"].encode()
        assert ota._hmac(ota._key_of(case["key"]), text).hex() == case["proof"]
    assert cbor.decode(bytes.fromhex(VECTORS["nothing"])) == {}
    for case in VECTORS["data"]:
        form = cbor.decode(bytes.fromhex(case["hex"]))
        assert (form[0].hex(), form[1], form[2].hex()) == (case["digest"], case["offset"], case["data"])
    for case in VECTORS["asks"]:
        board = SimpleNamespace(_timer=SimpleNamespace(), _wake=None)
        next(ota.Ota._chunk(board, bytes.fromhex(case["digest"]), case["offset"], case["length"]))
        assert board._ask.hex() == case["hex"]
    for case in VECTORS["manifests"]:
        found = [ota._file(line) for line in case["text"].splitlines(keepends=True)]
        files = {path: (digest, size) for digest, size, path in found if digest}
        contents = {path: bytes.fromhex(data) for path, data in case["files"].items()}
        assert files == {path: (sha256(data).digest(), len(data)) for path, data in contents.items()}


def test_reports_are_what_the_gateway_reads(modules: tuple[Any, Any]) -> None:
    board = Board(modules, fresh(OLD))
    gateway = Gateway(NEW)
    board.start()
    board.run(gateway)
    first, fetching = gateway.reports[:2]
    assert (first.running, first.state, first.platform) == (b"", wire_ota.IDLE, "linux")
    assert (fetching.subject, fetching.number, fetching.state) == (NEW.id, 7, wire_ota.FETCHING)
