"""edge.toml: what it means, what is refused and how, and that template and documentation tell the truth."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import config
from edge_runtime.config import DURATION, SIZE, Config, load, parse
from edge_runtime.errors import ConfigError

FILE = Path("/srv/site/edge.toml")
DOCUMENTATION = Path(__file__).parent.parent / "docs" / "configuration.md"


def test_an_empty_file_is_all_defaults() -> None:
    found = parse("", FILE)
    assert found == msgspec.structs.replace(Config(), gateway=config.Gateway(data=Path("/srv/site/data")))
    assert (found.mqtt.host, found.mqtt.port) == ("127.0.0.1", 1883)
    assert found.mqtt.max_packet == 262_144
    assert found.functions.time_limit == 500_000
    assert 1 <= found.functions.executors <= 4
    assert found.socket == Path("/srv/site/data/edge.sock")


def test_every_setting_can_be_given() -> None:
    found = parse(
        """
        [gateway]
        name = "north-1"
        data = "../var"
        [mqtt]
        listen = "[::1]:0"
        max_packet = 4096
        max_connections = 5
        [journal]
        max_delay_ms = 2.5
        max_size = "1.5 GiB"
        [functions]
        executors = 1
        time_limit = 2
        memory_limit = "32MiB"
        [targets.cloud]
        type = "http-cloudevents"
        url = "http://127.0.0.1:8080/x"
        timeout = "250ms"
        source = "//example.org/greenhouses"
        """,
        FILE,
    )
    assert found.gateway == config.Gateway("north-1", Path("/srv/var"))
    assert (found.mqtt.host, found.mqtt.port, found.mqtt.max_packet, found.mqtt.max_connections) == ("::1", 0, 4096, 5)
    assert found.journal == config.Journal(2.5, 3 << 29)
    assert found.functions == config.Functions(1, 2_000_000, 32 << 20)
    assert found.targets == {
        "cloud": config.HttpCloudEvents(
            "http-cloudevents", "http://127.0.0.1:8080/x", 250_000, "//example.org/greenhouses"
        )
    }


TARGET = '[targets.cloud]\ntype = "http-cloudevents"\n'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[mqtt]\nlissten = "x"', "'mqtt.lissten' is not a setting", "Did you mean 'listen'?"),
        ("[gatway]", "'gatway' is not a setting", "Did you mean 'gateway'?"),
        (TARGET + 'url = "http://x"\ntimout = 1', "'targets.cloud.timout' is not a setting", "Did you mean 'timeout'?"),
        ("mqtt = 1883", "'mqtt' is a table: expected [mqtt]", ""),
        ("apps = 1", "'apps' holds tables: expected [apps.NAME]", ""),
        ("[apps]\na = 1", "'apps.a' is a table", ""),
        ('[apps."a b"]', "'apps.a b' is not an app's name", ""),
        ("[apps.a]\ntime_limits = 1", "'apps.a.time_limits' is not a setting", "Did you mean 'time_limit'?"),
        ("[apps.a]\ncpu = 1.5", "'apps.a.cpu' is 1.5: expected a number from 0.01 to 1.0", ""),
        ('[apps.a]\ntier = "nativ"', '\'apps.a.tier\' is "nativ": expected "sandbox" or "native"', ""),
        ('[apps.a]\npreload = "numpy"', """'apps.a.preload' is "numpy": expected a list of modules""", ""),
        ('[apps.a]\npreload = ["os; x"]', "'apps.a.preload' is a list: expected a list of modules", ""),
        ("[apps.a]\nmin = 3\nmax = 2", "'apps.a.min' is 3: more than max, which is 2", ""),
        ("targets = 1", "'targets' holds tables: expected [targets.NAME]", ""),
        ("[targets]\ncloud = 1", "'targets.cloud' is a table", ""),
        (
            '[targets.cloud]\nurl = "http://x"',
            "'targets.cloud.type' is missing",
            "The types of target: http-cloudevents.",
        ),
        (TARGET, "'targets.cloud.url' is missing", ""),
        ('[targets.a]\ntype = "http-cloudevent"', "no such type of target", "Did you mean 'http-cloudevents'?"),
        (TARGET + 'url = "ftp://x"', "'targets.cloud.url' is wrong: expected a URL such as", ""),
        (TARGET + 'url = "http://me:secret@x"', "'targets.cloud.url' is wrong: a URL with a password", ""),
        ('[gateway]\nname = "a b"', """'gateway.name' is "a b": expected 1 to 64 letters""", ""),
        ("[gateway]\ndata = 3", "'gateway.data' is 3: expected a text in quotes", ""),
        ('[mqtt]\nlisten = "1883"', "'mqtt.listen' is wrong: expected an address and a port", ""),
        ('[mqtt]\nlisten = "::1:1883"', "'mqtt.listen' is wrong", ""),
        ('[mqtt]\nlisten = "x:65536"', "'mqtt.listen' is wrong", ""),
        ("[mqtt]\nmax_connections = true", "'mqtt.max_connections' is true: expected a whole number from 1 to", ""),
        ("[mqtt]\nmax_packet = inf", '\'mqtt.max_packet\' is inf: expected a size from "1KiB" to "256MiB"', ""),
        ('[mqtt]\nmax_packet = "1KB"', """'mqtt.max_packet' is "1KB": expected a size""", ""),
        ("[functions]\nexecutors = 0", "'functions.executors' is 0: expected a whole number from 1 to 256", ""),
        ('[functions]\ntime_limit = "soon"', """is "soon": expected a duration from "1ms" to "1h\"""", ""),
        ("[functions]\ntime_limit = [1]", "is a list: expected a duration", ""),
        ("[journal]\nmax_delay_ms = -1", "'journal.max_delay_ms' is -1: expected a number from 0 to 10000", ""),
        ("[mqtt\n", "edge.toml, line 1, column 6: Expected ']'", ""),
        ("a = 1\nb =", "edge.toml, line 2: Invalid value", ""),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_was_expected(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(FILE))
    assert caught.value.hint == hint
    assert "secret" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no configuration file") as caught:
        load(tmp_path / "edge.toml")
    assert "edge init" in caught.value.hint
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# a\n# \xe4\n")
    with pytest.raises(ConfigError, match="line 2: not UTF-8"):
        load(tmp_path / "latin.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (config.MAX_FILE + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(tmp_path / "large.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        load(tmp_path / "deep.toml")


def test_a_byte_order_mark_is_no_setting(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_bytes(b'\xef\xbb\xbf[gateway]\r\nname = "north"\r\n')
    assert load(path).gateway.name == "north"


def test_the_template_shows_the_defaults_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(config.default_text())
    assert load(path) == parse("", path)
    uncommented = re.sub(r"^# (?=\w+ = |\[)", "", config.default_text(), flags=re.MULTILINE)
    everything = parse(uncommented, path)
    assert everything.targets.pop("cloud") == config.HttpCloudEvents("http-cloudevents", "https://example.org/on-event")
    assert everything.serial.pop("boards") == config.SerialSettings()
    assert everything.apps.pop("greenhouse") == config.AppSettings()
    assert everything.pace.pop("loggers") == config.PaceSettings()
    assert everything.controls.pop("fan") == config.ControlSettings("fan")
    assert everything.streams.pop("minute") == config.StreamSettings("power", "power.minute")
    assert everything.schemas.pop("climate") == config.SchemaSettings(tmp_path / "climate.schema.json")
    own = everything.mappings.own.pop("shelly")
    assert own == config.MappingSettings("shellies/{device}/status", "power")
    assert everything == parse("", path)
    for setting in config.settings():
        assert re.search(rf"^{setting.name} = ", uncommented, re.MULTILINE), setting


def test_every_setting_is_documented_where_it_stands_and_in_the_manual() -> None:
    rows = re.findall(r"^## \[(.+)\]|^\| `(\w+)` \| (.+?) \| (.+) \|$", DOCUMENTATION.read_text(), re.MULTILINE)
    documented = {}
    table = ""
    for heading, name, default, meaning in rows:
        table = heading or table
        if name:
            documented[table, name] = (default, meaning)
    for setting in config.settings():
        default, meaning = documented.pop((setting.table, setting.name))
        assert meaning == setting.doc
        assert setting.doc
        if setting.name != "executors":  # depends on the machine
            assert (f"`{setting.default}`" if setting.default else "(required)") in default
    assert documented == {}


@given(st.integers(0, 1 << 50))
def test_quantities_survive_being_shown(value: int) -> None:
    for unit in (SIZE, DURATION):
        assert unit.parse(json.loads(unit.show(value))) == value


@given(st.text(max_size=12) | st.from_regex(r"\d{1,4}(\.\d{1,3})? ?(ms|KiB|s|B|h)", fullmatch=True))
def test_any_quantity_is_read_or_refused(text: str) -> None:
    for unit in (SIZE, DURATION):
        try:
            value = unit.parse(text)
        except ValueError:
            continue
        assert type(value) is int
        assert value >= 0


@pytest.mark.parametrize("listen", ["", "127.0.0.1:8080", "localhost:0", "[::1]:8080"])
def test_the_http_door_listens_to_this_machine(listen: str) -> None:
    found = parse(f'[http]\nlisten = "{listen}"', FILE)
    assert found.http.listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "192.168.1.5:80", "[::]:80", "example.org:80"])
def test_without_tls_the_http_door_is_opened_to_others_only_by_decision(listen: str) -> None:
    with pytest.raises(ConfigError, match="without TLS") as caught:
        parse(f'[http]\nlisten = "{listen}"', FILE)
    assert "insecure" in caught.value.hint
    assert parse(f'[http]\nlisten = "{listen}"\ninsecure = true', FILE).http.host


def test_what_is_neither_true_nor_false() -> None:
    with pytest.raises(ConfigError, match="expected true or false"):
        parse("[http]\ninsecure = 1", FILE)


def test_schemas_and_mappings_have_names_of_their_own() -> None:
    found = parse(
        """
        [schemas.climate]
        file = "schemas/climate.json"
        [mappings]
        use = ["tasmota"]
        [mappings.own.meter]
        topic = "meters/{device}/now"
        kind = "power"
        fields = { watts = "P.total" }
        [attach]
        url = "mqtts://broker.lan"
        password_file = "secret"
        """,
        FILE,
    )
    assert found.schemas == {"climate": config.SchemaSettings(Path("/srv/site/schemas/climate.json"))}
    own = config.MappingSettings("meters/{device}/now", "power", fields={"watts": "P.total"})
    assert found.mappings == config.Mappings(("tasmota",), {"meter": own})
    assert found.attach.address == (True, "broker.lan", 8883)
    assert found.attach.password_file == "/srv/site/secret"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[schemas."a b"]\nfile = "x"', "'schemas.a b' is not a kind"),
        ("[schemas.climate]", "'schemas.climate.file' is missing"),
        ('[mappings]\nuse = ["tasmoto"]', "'mappings.use' is a list: expected a list of"),
        ('[mappings.own.x]\ntopic = "a"', "'mappings.own.x.kind' is missing"),
        ('[mappings.own.x]\ntopic = "a"\nkind = "b"\nfields = 3', "'mappings.own.x.fields' is 3: expected a table"),
        ('[attach]\nurl = "http://x"', "'attach.url' is wrong: expected a URL such as"),
        ('[attach]\nurl = "mqtt://u:secret@x"', "'attach.url' is wrong: a URL with a password"),
        ('[admission]\nburst = "1ms"', '\'admission.burst\' is "1ms": expected a duration from "1s" to "1h"'),
    ],
)
def test_what_is_wrong_about_admission_is_said(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_paces_and_controls() -> None:
    found = parse(
        """
        [attach]
        discovery = "homeassistant"
        [pace.cameras]
        tags = { type = "camera" }
        bytes = "32MiB"
        [pace.loggers]
        devices = ["log-*"]
        rate = 10
        [controls.fan]
        command = "fan"
        on = '{"on": true}'
        off = '{"on": false}'
        state = "status.fan"
        """,
        FILE,
    )
    assert found.pace["cameras"] == config.PaceSettings((), {"type": "camera"}, 1000, 32 << 20)
    assert found.pace["loggers"].devices == ("log-*",)
    assert found.controls["fan"].state == "status.fan"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[controls.fan]\ncommand = "fan"\non = "{"', "'controls.fan.on' is no JSON"),
        ('[controls.fan]\ncommand = "fan"\noff = "NaN"', "'controls.fan.off' is no JSON"),
        ('[controls.fan]\ncommand = "fan"\nstate = "a.b"', "'controls.fan.state' is for switches"),
        ('[controls.fan]\ncommand = "fan"\noff = "0"\nstate = "a"', "'controls.fan.state' is for switches"),
        ("[pace.x]\ndevices = [1]", "'pace.x.devices' is a list: expected a list of ids or patterns of them"),
        ('[pace."x y"]\nrate = 1', "'pace.x y' is not a name"),
        ('[http]\nlisten = "0.0.0.0:80"', "'http.listen' is an address that others can reach, without TLS"),
    ],
)
def test_paces_controls_and_addresses_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(text, FILE)
    assert parse('[http]\nlisten = "0.0.0.0:443"\ntls = true', FILE).http.tls
