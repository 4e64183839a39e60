"""Real clients at the front door: paho-mqtt, and mosquitto's where it is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cbor2
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_runtime import wire
from tests.ingress.mqtt_house import PATIENCE, House, event_payload, eventually

mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None or shutil.which("mosquitto_sub") is None,
    reason="mosquitto's clients are not installed (Debian: apt install mosquitto-clients)",
)


@contextmanager
def paho_device(house: House, key: str, *, clean: bool = True) -> Iterator[paho.Client]:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="paho", clean_session=clean)
    client.username_pw_set("d", key)
    client.connect_async("127.0.0.1", house.port)
    try:
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


async def test_paho_publishes_is_acknowledged_and_gets_its_command(house: House) -> None:
    received: list[paho.MQTTMessage] = []

    def story() -> bool:
        with paho_device(house, house.key, clean=False) as client:
            connected, got = threading.Event(), threading.Event()

            def on_connect(client: paho.Client, *_: object) -> None:
                client.subscribe("/devices/d/commands/#", qos=1)
                connected.set()

            def on_message(_client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
                received.append(message)
                got.set()

            client.on_connect = on_connect
            client.on_message = on_message
            client.loop_start()
            assert connected.wait(PATIENCE)
            for seq in range(100):
                info = client.publish("/devices/d/events/climate", event_payload(seq), qos=1)
            info.wait_for_publish(PATIENCE)
            return info.is_published() and got.wait(PATIENCE)

    command = house.order()
    house.door.on_listening = lambda _device: None if house.door.deliver(command) else pytest.fail("not delivered")
    assert await asyncio.to_thread(story)
    assert [e.seq for e in house.journal.events] == list(range(100))
    (message,) = received
    assert (message.topic, message.qos) == ("/devices/d/commands/fan", 1)
    assert message.payload == wire.encode_command(
        wire.CommandMessage(command.id, command.expires, "fan", {"on": True}, None)
    )
    await eventually(lambda: house.door.counters.connections == 0)
    assert house.log == []


async def test_paho_with_a_wrong_key_is_told_that_it_is_not_authorised(house: House) -> None:
    def story() -> str:
        reasons: list[str] = []
        with paho_device(house, "wrong") as client:
            told = threading.Event()

            def on_connect(_client: paho.Client, _userdata: object, _flags: object, reason: object, _: object) -> None:
                reasons.append(str(reason))
                told.set()

            client.on_connect = on_connect
            client.loop_start()
            assert told.wait(PATIENCE)
        return reasons[0]

    assert await asyncio.to_thread(story) == "Not authorized"
    assert house.security
    assert not any("wrong'" in line for line in house.security)


async def test_paho_sends_again_what_a_full_journal_did_not_take(house: House) -> None:
    house.journal.inner.full = True
    published = threading.Event()

    def story() -> bool:
        with paho_device(house, house.key, clean=False) as client:
            client.reconnect_delay_set(min_delay=1, max_delay=1)
            client.on_publish = lambda *_: published.set()
            client.loop_start()
            client.publish("/devices/d/events/climate", event_payload(0), qos=1)
            return published.wait(PATIENCE)

    waiting = asyncio.ensure_future(asyncio.to_thread(story))
    await eventually(lambda: house.door.counters.refused == 1)
    house.journal.inner.full = False
    assert not published.is_set()
    house.pass_seconds(5)  # the door closes the connection; paho comes back and repeats
    assert await waiting
    assert [e.seq for e in house.journal.events] == [0]


async def run(program: str, house: House, folder: Path, *arguments: str) -> tuple[int, str]:
    """Run one of mosquitto's clients; the key goes through its configuration file, as it should."""
    (folder / program).write_text(f"-h 127.0.0.1\n-p {house.port}\n-u d\n-P {house.key}\n-V mqttv311\n", "utf-8")
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env=os.environ | {"XDG_CONFIG_HOME": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, output.decode()


@mosquitto
async def test_mosquitto_pub_is_acknowledged(house: House, tmp_path: Path) -> None:
    (tmp_path / "event").write_bytes(event_payload(5))
    arguments = ["-t", "/devices/d/events/climate", "-q", "1", "-f", str(tmp_path / "event")]
    assert await run("mosquitto_pub", house, tmp_path, *arguments) == (0, "")
    assert await run("mosquitto_pub", house, tmp_path, *arguments) == (0, "")
    assert [e.seq for e in house.journal.events] == [5]
    assert house.door.counters.duplicates == 1


@mosquitto
async def test_mosquitto_pub_of_qos_0_reaches_the_log(house: House, tmp_path: Path) -> None:
    (tmp_path / "event").write_bytes(event_payload(5))
    arguments = ["-t", "/devices/d/events/climate", "-f", str(tmp_path / "event")]
    assert await run("mosquitto_pub", house, tmp_path, *arguments) == (0, "")
    await eventually(lambda: len(house.journal.events) == 1)


@mosquitto
async def test_mosquitto_pub_with_a_wrong_key_is_refused(house: House, tmp_path: Path) -> None:
    house.key = "wrong"
    code, output = await run("mosquitto_pub", house, tmp_path, "-t", "/devices/d/events/climate", "-m", "x")
    assert code != 0
    assert "not authorised" in output.lower()


@mosquitto
async def test_mosquitto_sub_receives_a_command_and_is_refused_elsewhere(house: House, tmp_path: Path) -> None:
    command = house.order()
    house.door.on_listening = lambda _device: None if house.door.deliver(command) else pytest.fail("not delivered")
    code, output = await run(
        "mosquitto_sub", house, tmp_path, "-t", "/devices/d/commands/#", "-q", "2", "-C", "1", "-F", "%t %q %x"
    )
    topic, qos, payload = output.split()
    assert (code, topic, qos) == (0, "/devices/d/commands/fan", "1")
    assert cbor2.loads(bytes.fromhex(payload))[2] == "fan"
    _, output = await run("mosquitto_sub", house, tmp_path, "-t", "/devices/+/commands/#")
    assert "denied" in output.lower()
    assert any("outside /devices/d/" in line for line in house.security)
