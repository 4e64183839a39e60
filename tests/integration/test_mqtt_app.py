"""Real clients with the `app` profile: mosquitto's and paho-mqtt, over TCP, TLS and WebSocket; and a kill -9."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from devices.authority import Authority
from devices.exchange import DeviceLine
from edge_runtime.clock import SystemClock
from edge_runtime.errors import EdgeError
from edge_runtime.planes.api_operations import TraceRequest
from edge_runtime.planes.client import Client as Api
from edge_runtime.planes.client import NotRunning
from edge_runtime.planes.inventory import NewKey
from tests.ingress.mqtt_house import PATIENCE

mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto_pub") is None or shutil.which("mosquitto_sub") is None,
    reason="mosquitto's clients are not installed (Debian: apt install mosquitto-clients)",
)
V311, V5 = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
DOORS = ("tcp", "tls", "ws", "wss")
START_LIMIT = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Site:
    """A gateway's process, on the same ports over all its lives, with one user who may use everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {door: free_port() for door in DOORS}
        self.authority = Authority(folder / "data" / "ca")
        now = SystemClock().now()
        self.authority.make("test", now)
        self.authority.renew(["127.0.0.1", "localhost"], now, look=True)
        listen = zip(("listen", "tls_listen", "websocket_listen", "websocket_tls_listen"), DOORS, strict=True)
        lines = [f'{name} = "127.0.0.1:{self.ports[door]}"' for name, door in listen]
        (folder / "edge.toml").write_text("[mqtt]\n" + "\n".join(lines) + "\n[functions]\nexecutors = 1\n")
        self.api = Api(folder / "data" / "edge.sock")
        self.start()
        self.key = self.api.add_user("app", ["#"], ["#"]).key
        (folder / "mosquitto").mkdir()

    def start(self) -> None:
        with (self.folder / "gateway.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "edge_runtime.cli", "run", "--config", str(self.folder / "edge.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.api.status()
            except NotRunning:
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self.folder / "gateway.log").read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def ca(self) -> str:
        return str(self.authority.certificate)

    def mosquitto(self, program: str, *arguments: str, door: str = "tcp") -> subprocess.Popen[str]:
        """One of mosquitto's clients; the key goes through its configuration file, as it should."""
        options = f"-h 127.0.0.1\n-p {self.ports[door]}\n-u app\n-P {self.key}\n"
        (self.folder / "mosquitto" / program).write_text(
            options + (f"--cafile {self.ca}\n" if door == "tls" else ""), "utf-8"
        )
        return subprocess.Popen(
            [program, *arguments],
            env=os.environ | {"XDG_CONFIG_HOME": str(self.folder / "mosquitto")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def publish(self, *arguments: str, door: str = "tcp") -> None:
        process = self.mosquitto("mosquitto_pub", *arguments, door=door)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out, err) == (0, "", "")

    def subscribed(self, pattern: str, *arguments: str, door: str = "tcp") -> subprocess.Popen[str]:
        """A mosquitto_sub whose subscription is in force."""
        before = self.api.status().broker["connections"]
        process = self.mosquitto("mosquitto_sub", "-t", pattern, *arguments, door=door)
        until(lambda: self.api.status().broker["connections"] > before)
        # It subscribes with the packet after: a message to itself tells when that has been dealt with.
        self.settle()
        return process

    def settle(self) -> None:
        """Return once the gateway has dealt with what was sent a moment ago."""
        with self.client("settle") as client:
            client.subscribe("settle", qos=1)
            client.publish("settle", b"", qos=1)
            client.messages.get(timeout=PATIENCE)

    @contextlib.contextmanager
    def client(
        self, client_id: str, version: MQTTProtocolVersion = V5, door: str = "tcp", **more: Any
    ) -> Iterator[Paho]:
        client = Paho(self, client_id, version, door, **more)
        try:
            yield client
        finally:
            client.disconnect()
            client.loop_stop()


class Paho(paho.Client):
    """A connected paho client that collects what comes."""

    def __init__(
        self,
        site: Site,
        client_id: str,
        version: MQTTProtocolVersion,
        door: str,
        *,
        clean: bool = True,
        expiry: int = 0,
        receive_maximum: int = 0,
        certificate: tuple[str, str] | None = None,
        will: str = "",
        wait: bool = True,
    ) -> None:
        transport = "websockets" if door in ("ws", "wss") else "tcp"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=version,
            clean_session=clean if version == V311 else None,
            transport=transport,  # type: ignore[arg-type]
        )
        self.messages: Queue[paho.MQTTMessage] = Queue()
        self.flags: Queue[Any] = Queue()
        self.refused: Queue[str] = Queue()
        self.on_message = lambda _client, _userdata, message: self.messages.put(message)
        self.on_connect = lambda _client, _userdata, flags, reason, _properties: (
            self.refused.put(str(reason)) if reason.is_failure else self.flags.put(flags)
        )
        self.subscriptions: Queue[Any] = Queue()
        self.on_subscribe = lambda _client, _userdata, _mid, codes, _properties: self.subscriptions.put(codes)
        if certificate is None:
            self.username_pw_set("app", site.key)
        if door in ("tls", "wss"):
            certfile, keyfile = certificate or (None, None)
            self.tls_set(site.ca, certfile, keyfile, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        if will:
            self.will_set(will, b"gone", qos=1)
        more: dict[str, Any] = {}
        if version == V5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            if expiry:
                properties.SessionExpiryInterval = expiry
            if receive_maximum:
                properties.ReceiveMaximum = receive_maximum
            more = {"clean_start": clean, "properties": properties}
        self.connect("127.0.0.1", site.ports[door], **more)
        self.loop_start()
        self.session_present = self.flags.get(timeout=PATIENCE).session_present if wait else False

    def take(self, pattern: str, qos: int = 1, **options: Any) -> None:
        """Subscribe, and wait for it."""
        if options:
            self.subscribe(pattern, options=SubscribeOptions(qos=qos, **options))
        else:
            self.subscribe(pattern, qos=qos)
        self.subscriptions.get(timeout=PATIENCE)

    def give(self, topic: str, payload: bytes, qos: int = 1, retain: bool = False, **properties: Any) -> None:
        """Publish, and wait for the acknowledgement."""
        made = None
        if properties:
            made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            for name, value in properties.items():
                setattr(made, name, value)
        self.publish(topic, payload, qos=qos, retain=retain, properties=made).wait_for_publish(PATIENCE)

    def next(self) -> paho.MQTTMessage:
        return self.messages.get(timeout=PATIENCE)

    def break_off(self) -> None:
        """Be gone without a word, as if the power had failed."""
        self.on_connect = None
        self.loop_stop()
        sock = self.socket()
        if sock is not None:
            sock.close()


def until(true: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not come to be so in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.api.close()
    site.process.terminate()
    site.process.wait(30)


@mosquitto
@pytest.mark.parametrize("door", ["tcp", "tls"])
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_mosquitto(site: Site, version: str, qos: str, door: str) -> None:
    topic = f"m/{version}/{qos}/{door}"
    reader = site.subscribed(topic, "-q", qos, "-V", version, "-C", "3", door=door)
    for number in range(3):
        site.publish("-t", topic, "-q", qos, "-V", version, "-m", str(number), door=door)
    out, err = reader.communicate(timeout=PATIENCE)
    assert (out, err) == ("0\n1\n2\n", "")


@mosquitto
def test_mosquitto_with_properties_and_retained(site: Site) -> None:
    properties = ("-D", "publish", "user-property", "unit", "C", "-D", "publish", "content-type", "text/plain")
    lived = ("-D", "publish", "message-expiry-interval", "60")
    site.publish("-V", "mqttv5", "-t", "m/props", "-r", "-q", "1", "-m", "21", *properties, *lived)
    reader = site.mosquitto("mosquitto_sub", "-V", "mqttv5", "-t", "m/props", "-C", "1", "-F", "%r %p %P %C %E")
    out, _ = reader.communicate(timeout=PATIENCE)
    retained, payload, *rest = out.split()
    assert (retained, payload) == ("1", "21")
    assert rest[:2] == ["unit:C", "text/plain"]
    assert 50 <= int(rest[2]) <= 60


@mosquitto
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
def test_mosquitto_sessions_and_wills(site: Site, version: str) -> None:
    session: tuple[str, ...] = ("-c", "-i", f"keeper-{version}", "-q", "1", "-V", version)
    if version == "mqttv5":
        session = (*session, "-x", "60")
    first = site.subscribed(
        f"m/kept/{version}", *session, "--will-topic", f"m/will/{version}", "--will-payload", "gone"
    )
    watcher = site.subscribed(f"m/will/{version}", "-C", "1")
    first.kill()
    first.communicate()
    assert watcher.communicate(timeout=PATIENCE)[0] == "gone\n"
    for number in range(3):
        site.publish("-t", f"m/kept/{version}", "-q", "1", "-m", str(number))
    again = site.mosquitto("mosquitto_sub", "-t", f"m/kept/{version}", *session, "-C", "3")
    assert again.communicate(timeout=PATIENCE)[0] == "0\n1\n2\n"


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("version", [V311, V5], ids=["3.1.1", "5"])
def test_paho_over_every_door(site: Site, version: MQTTProtocolVersion, door: str) -> None:
    with site.client(f"p-{version}-{door}", version, door) as client:
        topic = f"p/{version}/{door}"
        client.take(f"{topic}/+", 2)
        payload = os.urandom(100_000)  # many frames, many records of TLS
        for qos in (0, 1, 2):
            client.give(f"{topic}/{qos}", payload, qos)
        got = sorted((client.next() for _ in range(3)), key=lambda message: message.topic)
        assert [(m.topic[-1], m.qos, m.payload == payload) for m in got] == [(str(q), q, True) for q in (0, 1, 2)]


def test_paho_shares_and_keeps_its_window(site: Site) -> None:
    with site.client("s1", receive_maximum=1) as one, site.client("s2") as two, site.client("giver") as giver:
        for member in (one, two):
            member.take("$share/g/jobs/#")
        for number in range(20):
            giver.give("jobs/x", b"%d" % number)
        until(lambda: one.messages.qsize() + two.messages.qsize() == 20)
        found = [[int(m.payload) for m in list(member.messages.queue)] for member in (one, two)]
        assert sorted(found[0] + found[1]) == list(range(20))
        assert all(part == sorted(part) and part for part in found)


def test_paho_requests_and_gets_a_response(site: Site) -> None:
    with site.client("asks") as asking, site.client("answers") as answering:
        asking.take("responses/app/asks")
        answering.take("service/add", noLocal=True)
        asking.give("service/add", b"1 2", ResponseTopic="responses/app/asks", CorrelationData=b"\x07")
        request: Any = answering.next().properties
        answering.give(request.ResponseTopic, b"3", CorrelationData=request.CorrelationData)
        response: Any = asking.next()
        assert response.payload == b"3"
        assert response.properties.CorrelationData == b"\x07"


def test_paho_message_expiry_and_will(site: Site) -> None:
    with site.client("w") as watcher:
        watcher.take("p/will")
        lost = Paho(site, "lost", V5, "tcp", will="p/will")
        lost.break_off()
        assert watcher.next().payload == b"gone"
    with site.client("e", clean=False, expiry=60) as sleeper:
        sleeper.take("p/expiry")
    with site.client("giver") as giver:
        giver.give("p/expiry", b"short", MessageExpiryInterval=1)
        giver.give("p/expiry", b"long", MessageExpiryInterval=60)
    moment = time.monotonic() + 1.2
    until(lambda: time.monotonic() > moment)
    with site.client("e", clean=False, expiry=60) as sleeper:
        assert sleeper.session_present
        assert sleeper.next().payload == b"long"


def test_a_wrong_key_and_a_topic_without_permission(site: Site) -> None:
    stranger = Paho.__new__(Paho)
    right, site.key = site.key, "wrong"
    try:
        Paho.__init__(stranger, site, "x", V5, "tls", wait=False)
        assert stranger.refused.get(timeout=PATIENCE) == "Not authorized"
    finally:
        site.key = right
        stranger.loop_stop()
    site.api.allow_user("app", ["home/#"], ["home/#"])
    try:
        with site.client("narrow") as client:
            client.subscribe("elsewhere")
            assert str(client.subscriptions.get(timeout=PATIENCE)[0]) == "Not authorized"
    finally:
        site.api.allow_user("app", ["#"], ["#"])


def test_a_name_is_a_device_s_or_a_user_s(site: Site) -> None:
    """It decides whose key is asked for: with both, the one that came first would be locked out."""
    with pytest.raises(EdgeError, match="there is an MQTT user 'app'") as refused:
        site.api.add_device("app")
    assert "edge user remove app" in (refused.value.hint or "")
    with pytest.raises(EdgeError, match="there is an MQTT user 'app'"):
        site.api.import_devices([DeviceLine("valve-1", 1), DeviceLine("app", 1)])
    assert not {"app", "valve-1"} & {row.device for row in site.api.devices()}
    site.api.add_device("valve-2")
    with pytest.raises(EdgeError, match="there is a device 'valve-2'"):
        site.api.add_user("valve-2", [], [])


def test_a_device_with_a_certificate_needs_no_key(site: Site) -> None:
    site.api.add_device("board")
    made = site.api.add_key("board", NewKey(type="certificate"))
    paths = site.folder / "board.pem", site.folder / "board.key"
    paths[0].write_text(made.certificate)
    paths[1].write_text(made.private_key)
    client = Paho(site, "board", V311, "tls", certificate=(str(paths[0]), str(paths[1])))
    try:
        until(lambda: any(row.device == "board" and row.connected for row in site.api.devices()))
    finally:
        client.disconnect()
        client.loop_stop()


def test_a_command_from_a_program_is_traced_like_any_other(site: Site) -> None:
    site.api.add_device("fan-1")
    with site.client("commander") as client:
        client.give("/devices/fan-1/commands/fan", b'{"on": true}')
    (line,) = [line for line in site.api.tail(-1, follow=False) if line.type == "command"]
    assert (line.device, line.name, line.data) == ("fan-1", "fan", {"on": True})
    assert line.id in str(site.api.trace(TraceRequest(line.id)))


def test_a_new_certificate_is_used_without_a_restart(site: Site) -> None:
    def serial() -> bytes:
        context = ssl.create_default_context(cafile=site.ca)
        with (
            socket.create_connection(("127.0.0.1", site.ports["tls"]), PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            found = secured.getpeercert(binary_form=True)
            assert found is not None
            return found

    before = serial()
    site.authority.renew(["127.0.0.1", "localhost", "other.example"], SystemClock().now(), look=True)
    deadline = time.monotonic() + 30
    while serial() == before:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_kill_9_keeps_what_was_acknowledged_and_doubles_nothing(site: Site) -> None:
    with site.client("keeper", clean=False, expiry=600) as keeper:
        keeper.take("k/#", 2)
    with site.client("giver") as giver:
        giver.give("k/retained", b"stays", 1, retain=True)
        for number in range(50):
            giver.give("k/1", b"%d" % number, 1)
            giver.give("k/2", b"%d" % number, 2)
    site.kill()
    site.start()
    got: dict[str, list[int]] = {"k/1": [], "k/2": []}
    keeper = Paho(site, "keeper", V5, "tcp", clean=False, expiry=600)
    half = threading.Event()

    def collect(message: paho.MQTTMessage) -> None:
        if message.topic in got:
            got[message.topic].append(int(message.payload))
            if len(got["k/2"]) >= 20:
                half.set()

    keeper.on_message = lambda _client, _userdata, message: collect(message)
    while not keeper.messages.empty():
        collect(keeper.messages.get())
    assert keeper.session_present
    assert half.wait(PATIENCE)
    site.kill()  # in the middle of the delivery: the client keeps its half of QoS 2 and comes back by itself
    site.start()
    until(lambda: set(got["k/1"]) == set(range(50)) and len(got["k/2"]) >= 50)
    site.settle()
    assert got["k/2"] == list(range(50)), "each exactly once, in order"
    assert list(dict.fromkeys(got["k/1"])) == list(range(50))
    keeper.disconnect()
    keeper.loop_stop()
    with site.client("late") as late:
        late.take("k/retained")
        message = late.next()
        assert (message.payload, message.retain) == (b"stays", True)
