"""Virtual boards against a real MQTT broker: nothing is lost, whatever happens to the broker or the board."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from random import Random

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_runtime.wire import CommandMessage, ReplyMessage, decode_events, decode_reply, encode_command
from hil.board import BoardConfig, BoardError
from hil.boards import demo_board
from hil.process_board import ProcessBoard
from hil.script import installed, run_script
from hil.unix_board import UnixBoard
from hil.waiting import until
from hil.wasi_board import WasiBoard

ROOT = Path(__file__).resolve().parent.parent.parent
GREENHOUSE = ROOT / "examples" / "greenhouse" / "board"
COUNTER = ROOT / "tests" / "firmware" / "on_board" / "counter"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
KINDS = {"unix": UnixBoard, "wasi": WasiBoard}


def missing(part: str) -> None:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{part} is not installed")


def port_of_ours() -> int:
    """A free port that nobody else is given while the broker is down: below those that the system gives by itself."""
    for port in Random().sample(range(10_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("of 100 ports none is free")


class Broker:
    """mosquitto on a free port, with a subscriber that keeps its session, so that nothing is lost on that side."""

    def __init__(self, folder: Path) -> None:
        self.port = port_of_ours()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n"
            f"persistence true\npersistence_location {folder}/\nautosave_interval 0\n"
        )
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.values: list[object] = []
        self.events: list[tuple[bytes, int]] = []
        self.replies: list[ReplyMessage] = []
        self.watching = False
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="watcher", clean_session=False)
        self._client.on_message = self._message
        self._client.reconnect_delay_set(1, 1)

    def start(self) -> None:
        """Start it, or start it again."""
        assert MOSQUITTO is not None
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stdout=log, stderr=log)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it; it keeps what its subscriber has not had."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(20)

    def accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def watch(self) -> None:
        """Subscribe to all that boards send."""

        def subscribe(*_: object) -> None:
            self._client.subscribe([("/devices/+/events/#", 1), ("/devices/+/replies", 1)])

        def subscribed(*_: object) -> None:
            self.watching = True

        self._client.on_connect = subscribe
        self._client.on_subscribe = subscribed
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()

    def end_watch(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # Its last sockets are closed when it goes, which a circle through these would leave to chance.
        self._client.on_message = self._client.on_connect = self._client.on_subscribe = None

    def send(self, device: str, command: CommandMessage) -> None:
        self._client.publish(f"/devices/{device}/commands/{command.name}", encode_command(command), qos=1)

    def _message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        levels = message.topic.split("/")
        if levels[3] == "replies":
            self.replies.append(decode_reply(bytes(message.payload)))
            return
        envelope = decode_events(bytes(message.payload), levels[4] if len(levels) > 4 else None)
        for reading in envelope.readings:
            if (envelope.boot, reading.seq) not in self.events:
                self.events.append((envelope.boot, reading.seq))
                self.values.append(reading.data)


def has_acknowledged(board: ProcessBoard, number: int) -> bool:
    return len(board.journal().acknowledged) == number


def has_printed(board: ProcessBoard, text: str, times: int = 1) -> bool:
    return board.logs().count(text) >= times


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    if MOSQUITTO is None:
        missing("mosquitto (Debian package mosquitto)")
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Broker(folder)
    broker.start()
    try:
        await until(broker.accepts, "mosquitto accepts connections")
        broker.watch()
        await until(lambda: broker.watching, "the subscription stands")
        yield broker
        broker.end_watch()
    finally:
        broker.stop()


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """The counting program with the journal of the greenhouse's."""
    folder = tmp_path / "program"
    shutil.copytree(COUNTER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(GREENHOUSE / "journal.py", folder / "journal.py")
    return folder


def make(machine: str, tmp_path: Path, program: Path, port: int, **settings: object) -> ProcessBoard:
    if not installed(machine):
        missing(f"MicroPython ({machine}, requirements/micropython.txt)")
    # Patience is short only where it is waited for: a busy machine may well say nothing for 2 s. The queue holds all
    # readings where none is to go, however long a broker takes to start.
    named = {"patience": 10, "backoff": 1, "queue": 64}
    options = {name: settings.pop(name, value) for name, value in named.items()}
    # A name that may stand for an IPv6 address first, where nobody listens.
    config = BoardConfig(f"{machine}-1", "very-secret", "localhost", port, options, settings)
    return KINDS[machine](tmp_path / "board", program, config)


@pytest.mark.parametrize("machine", KINDS)
async def test_a_broker_that_goes_away_and_comes_back(
    tmp_path: Path, broker: Broker, counter: Path, machine: str
) -> None:
    board = make(machine, tmp_path, counter, broker.port, readings=150, period_ms=20, queue=160)
    await board.start()
    try:
        await until(lambda: len(board.journal().acknowledged) >= 40, "40 readings are acknowledged")
        broker.stop()
        await until(lambda: "offline" in board.logs(), "the board notices")
        broker.start()
        await until(lambda: len(board.journal().acknowledged) == 150, "all readings are acknowledged")
        await until(lambda: len(broker.values) == 150, "all readings arrive")
        assert sorted(v["n"] for v in broker.values if isinstance(v, dict)) == list(range(1, 151))
        assert board.journal().published == board.journal().acknowledged
    finally:
        await board.stop()
    assert not board.running


async def test_what_had_to_go_is_counted(tmp_path: Path, broker: Broker, counter: Path) -> None:
    broker.stop()
    board = make("unix", tmp_path, counter, broker.port, readings=200, period_ms=5)
    await board.start()
    try:
        await until(lambda: "taken 200\n" in board.logs(), "all readings are taken")
        broker.start()
        await until(
            lambda: sum(isinstance(v, dict) and "count" in v for v in broker.values) == 1, "the loss is reported"
        )
        # The broker tells its subscriber before the board has read the acknowledgement.
        await until(partial(has_acknowledged, board, 64 + 1), "the board knows that all has arrived")
    finally:
        await board.stop()
    numbers = [v["n"] for v in broker.values if isinstance(v, dict) and "n" in v]
    assert numbers == list(range(137, 201))
    assert broker.values[-1] == {"count": 136}
    assert board.journal().published == board.journal().acknowledged


@pytest.mark.parametrize("machine", KINDS)
async def test_a_queue_filled_again_and_again_leaves_the_heap_whole(
    tmp_path: Path, broker: Broker, counter: Path, machine: str
) -> None:
    board = make(machine, tmp_path, counter, broker.port, readings=900, period_ms=5)

    def accounted() -> int:
        return sum(v.get("count", 1) for v in broker.values if isinstance(v, dict))

    await board.start()
    try:
        for outage, taken in enumerate((300, 600, 900), 1):
            await until(partial(has_printed, board, "online over mqtt\n", outage), "the board is online")
            broker.stop()
            await until(partial(has_printed, board, f"taken {taken}\n"), "the queue is full")
            broker.start()
        await until(lambda: accounted() >= 900, "every reading has arrived or is reported as lost")
    finally:
        await board.stop()
    assert "MemoryError" not in board.logs()
    acknowledged = board.journal().acknowledged
    await until(
        lambda: acknowledged <= {f"{board.device}/{boot.hex()}/{seq}" for boot, seq in broker.events},
        "all that was acknowledged arrives",
    )


async def test_a_broker_that_hangs_is_noticed(tmp_path: Path, broker: Broker, counter: Path) -> None:
    board = make("unix", tmp_path, counter, broker.port, readings=60, period_ms=50, patience=2)
    await board.start()
    try:
        await until(lambda: len(board.journal().acknowledged) >= 5, "5 readings are acknowledged")
        broker.signal(signal.SIGSTOP)
        await until(lambda: "no answer to a message in 2 s" in board.logs(), "the board gives the connection up")
        broker.signal(signal.SIGCONT)
        await until(lambda: len(board.journal().acknowledged) == 60, "all readings are acknowledged")
        assert board.journal().republished > 0
        await until(lambda: len(broker.values) == 60, "all readings arrive")
    finally:
        await board.stop()


@pytest.mark.parametrize("machine", KINDS)
async def test_a_power_cut_begins_a_new_sequence(tmp_path: Path, broker: Broker, counter: Path, machine: str) -> None:
    board = make(machine, tmp_path, counter, broker.port, readings=5, period_ms=20)
    for start in (1, 2):
        await board.start()
        try:
            await until(partial(has_acknowledged, board, 5 * start), "all readings are acknowledged")
        finally:
            await board.kill()
    await until(lambda: len(broker.events) == 10, "all readings arrive")
    assert board.journal().starts == 2
    assert board.journal(last_start=True).starts == 1
    assert len(board.journal(last_start=True).acknowledged) == 5
    assert len({boot for boot, _ in broker.events}) == 2
    assert board.journal().acknowledged == {f"{board.device}/{boot.hex()}/{seq}" for boot, seq in broker.events}


@pytest.mark.parametrize("machine", KINDS)
async def test_commands_are_obeyed_once_and_written_down(
    tmp_path: Path, broker: Broker, counter: Path, machine: str
) -> None:
    board = make(machine, tmp_path, counter, broker.port, readings=3, period_ms=20)
    await board.start()
    try:
        await until(lambda: len(broker.events) == 3, "the readings arrive")
        cause = broker.events[1]
        good = CommandMessage(b"1" * 16, 2**50 * 2, "double", {"n": 21}, cause)
        for command in (good, good, CommandMessage(b"2" * 16, 2**50 * 2, "door", None)):
            broker.send(board.device, command)
        await until(lambda: len(board.journal().commands) == 3, "the commands arrive")
        await until(lambda: {r.id for r in broker.replies} >= {b"1" * 16, b"2" * 16}, "they are answered")
    finally:
        await board.stop()
    assert ReplyMessage(b"1" * 16, 0, {"n": 42}) in broker.replies
    assert ReplyMessage(b"2" * 16, 2) in broker.replies
    first, second, third = board.journal().commands
    assert (first.name, first.repeat, second.repeat, third.name) == ("double", False, True, "door")
    assert first.cause == f"{board.device}/{cause[0].hex()}/{cause[1]}"
    assert len(board.journal().command_us) == 1
    assert 0 < board.journal().command_us[0] < 60_000_000


async def test_the_greenhouse_is_cooled_by_its_fan(tmp_path: Path, broker: Broker) -> None:
    board = make("unix", tmp_path, GREENHOUSE, broker.port, period_ms=20, speed=50, seed=7)

    def latest() -> dict[str, float]:
        value = broker.values[-1] if broker.values else {}
        return value if isinstance(value, dict) else {}

    await board.start()
    try:
        await until(lambda: bool(latest()), "there is a reading")
        broker.send(board.device, CommandMessage(b"1" * 16, 2**51, "fan", {"on": True}))
        await until(lambda: latest()["fan"] is True and latest()["temperature"] < 22, "the fan cools")
        broker.send(board.device, CommandMessage(b"2" * 16, 2**51, "fan", {"on": False}))
        await until(lambda: latest()["fan"] is False and latest()["temperature"] > 36, "the sun heats")
    finally:
        await board.stop()
    assert board.logs() == "online over mqtt\n"


@pytest.mark.parametrize("machine", KINDS)
async def test_the_key_stays_in_its_file(tmp_path: Path, counter: Path, machine: str) -> None:
    board = make(machine, tmp_path, counter, 1, readings=1, period_ms=20)
    await board.start()
    try:
        await until(lambda: "offline" in board.logs(), "the board looks for its gateway")
        assert board.pid is not None
        process = Path("/proc") / str(board.pid)
        for file in (process / "cmdline", process / "environ", board.folder / "board.log"):
            assert b"very-secret" not in file.read_bytes()
        settings = board.folder / "flash" / "edge.json"
        assert settings.stat().st_mode & 0o777 == 0o600
        with pytest.raises(BoardError, match="running already"):
            await board.start()
    finally:
        await board.stop()
        await board.stop()


PARENT = """
import asyncio, sys
from pathlib import Path
from hil.board import BoardConfig
from hil.boards import demo_board

async def main():
    board = demo_board(Path(sys.argv[1]), Path(sys.argv[2]), BoardConfig("b", "k", port=1, settings={}))
    await board.start()
    print(board.pid, flush=True)
    await board.wait()

asyncio.run(main())
"""


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_board_ends_with_the_one_who_started_it(tmp_path: Path) -> None:
    if not (installed("unix") or installed("wasi")):
        missing("MicroPython (requirements/micropython.txt)")
    command = [sys.executable, "-c", PARENT, str(tmp_path / "b"), str(GREENHOUSE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        log = tmp_path / "b" / "board.log"
        await until(lambda: "offline" in log.read_text(), "the board runs")
        assert alive(pid)
        parent.kill()
    await until(lambda: not alive(pid), "the board ends")


def test_the_demo_takes_the_unix_port_where_there_is_one(tmp_path: Path) -> None:
    if not installed("unix"):
        missing("MicroPython's unix port")
    board = demo_board(tmp_path, GREENHOUSE, BoardConfig("b", "k"))
    assert isinstance(board, UnixBoard)
    assert board.logs() == ""
    assert board.journal().published == set()


HOUSE = """
import gc
from house import House
house = House(3, 2)
for second in range(40):
    house.fan = second > 20
    house.advance(1)
    print(house.temperature(), house.humidity())
    gc.collect()
"""


def test_the_model_is_the_same_on_every_machine(tmp_path: Path) -> None:
    shutil.copyfile(GREENHOUSE / "house.py", tmp_path / "house.py")
    outputs = [run_script(m, tmp_path, HOUSE, heap="128k").splitlines() for m in KINDS if installed(m)]
    if not outputs:
        missing("MicroPython (requirements/micropython.txt)")
    assert all(output == outputs[0] for output in outputs)
    temperatures = [float(line.split()[0]) for line in outputs[0]]
    assert max(temperatures) > 34
    assert min(temperatures) < 24
    assert all(t * 16 == int(t * 16) for t in temperatures)
