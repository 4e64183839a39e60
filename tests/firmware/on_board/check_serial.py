"""The serial link's frames and proofs against the vectors, in the interpreters that boards run."""

from binascii import crc32, unhexlify

import vectors
from edge_device import serial


def check_frames():
    for case in vectors.serial["frames"]:
        body = unhexlify(case["body"])
        out = bytearray()
        serial.frame(out, case["type"], case["number"], body, case["seed"])
        assert bytes(out) == case["hex"], case["name"]
        assert serial.unframe(out[1:-1], case["seed"]) == (case["type"], case["number"], body), case["name"]


def check_what_is_no_frame():
    for case in vectors.serial["invalid"]:
        assert serial.unframe(case["hex"], 0) is None, case["name"]


def check_proofs():
    for case in vectors.serial["proofs"]:
        nonces = unhexlify(case["board"]) + unhexlify(case["gateway"])
        made = serial.prove(unhexlify(case["digest"]), case["side"].encode(), nonces, case["device"])
        assert made == unhexlify(case["proof"]), case["name"]
        assert crc32(nonces) == case["seed"], case["name"]
