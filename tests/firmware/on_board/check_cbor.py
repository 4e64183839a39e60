"""The codec, against the shared vectors and against what it must refuse."""

import vectors
from bench_gateway import raises
from edge_device import cbor, wire


def plain(value):
    out = bytearray()
    cbor.encode(value, out)
    return bytes(out)


def check_events_are_encoded_to_the_byte():
    for case in vectors.events:
        envelope = case["envelope"]
        items = envelope.get("events") or [[0, case["kind"], envelope["data"]]]
        start = envelope["uptime"]
        epoch = None
        if start is None:
            start = 0
            epoch = envelope["time"]
        readings = [(envelope["seq"] + i, kind, start + at, plain(data)) for i, (at, kind, data) in enumerate(items)]
        out = wire.encode_events(case["boot"], readings, epoch, envelope["sent"])
        assert bytes(out) == case["hex"], case["name"]


def check_replies_are_encoded_to_the_byte():
    for case in vectors.replies:
        form = case["reply"]
        assert bytes(wire.encode_reply(form["id"], form["status"], form["result"])) == case["hex"], case["name"]


def check_commands_are_read():
    for case in vectors.commands:
        form = case["command"]
        command, expires, name, args, cause = wire.decode_command(case["hex"])
        assert (command, expires, name) == (form["id"], form["expires"], form["name"]), case["name"]
        expected = form["args"]
        assert args == (dict(expected) if isinstance(expected, dict) else expected), case["name"]
        assert cause == (tuple(form["cause"]) if form["cause"] else None), case["name"]


def check_every_vector_is_read_back_whole():
    for case in vectors.events + vectors.replies + vectors.commands:
        assert plain(cbor.decode(case["hex"])) is not None
        for end in range(len(case["hex"])):
            raises(ValueError, cbor.decode, case["hex"][:end])


def check_longer_heads_and_short_floats_are_read():
    assert cbor.decode(b"\x18\x05") == 5
    assert cbor.decode(b"\x1b\0\0\0\0\0\0\0\5") == 5
    assert cbor.decode(b"\x38\x05") == -6
    assert cbor.decode(b"\xf9\x3c\x00") == 1.0
    assert cbor.decode(b"\xf9\xc4\x00") == -4.0
    assert cbor.decode(b"\xf9\x00\x01") == 2.0**-24
    assert cbor.decode(b"\xf9\x7c\x00") == float("inf")
    nan = cbor.decode(b"\xf9\x7e\x00")
    assert nan != nan


def check_what_is_not_used_here_is_refused():
    refused = [b"", b"\xc0\x61a", b"\x9f\xff", b"\x5f\xff", b"\xf7", b"\xff", b"\xf8\x20", b"\x61\xff", b"\1\1"]
    refused += [b"\xa2\1\1\1\2", b"\xa1\xf6\1", b"\x9a\xff\xff\xff\xff", b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff"]
    for data in refused:
        raises(ValueError, cbor.decode, data)
    raises(ValueError, cbor.decode, b"\x81" * 40 + b"\1")


def check_what_cannot_be_sent_is_refused():
    raises(ValueError, plain, 1 << 63)
    raises(ValueError, plain, -(1 << 63) - 1)
    raises(TypeError, plain, object())
    raises(TypeError, plain, {None: 1})
    deep = 1
    for _ in range(17):
        deep = [deep]
    raises(ValueError, plain, deep)
    assert plain(deep[0])


def check_the_edges_of_integers_and_floats():
    for value in (0, 23, 24, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1):
        assert cbor.decode(plain(value)) == value
        assert cbor.decode(plain(-value - 1)) == -value - 1
    assert plain(1.5) == b"\xfa\x3f\xc0\0\0"
    assert plain(float("inf")) == b"\xfa\x7f\x80\0\0"
    assert plain(0.1)[0] == 0xFB
    assert cbor.decode(plain(1e300)) == 1e300


def check_names():
    for name in ("a", "A9_.-", "x" * 64):
        wire.check_name(name, "the kind")
    for name in ("", "-a", "_a", "a b", "a/b", "a#", "ü", "x" * 65, None):
        assert "the kind" in raises(ValueError, wire.check_name, name, "the kind")


def check_commands_that_are_none_are_refused():
    for form in (1, {}, {0: b"x" * 15, 1: 1, 2: "a"}, {0: b"x" * 16, 1: "", 2: "a"}, {0: b"x" * 16, 1: 1, 2: 1}):
        raises(ValueError, wire.decode_command, plain(form))
    raises(ValueError, wire.decode_command, plain({0: b"x" * 16, 1: 1, 2: "a", 4: 3}))
