"""Datagrams on the real sockets of a board's MicroPython."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from hil.script import installed, run_script
from tests.firmware.test_firmware_heap import PACKAGE

READS = """
import asyncio
import socket
from edge_device.udp import Transport

class Link:
    host = "127.0.0.1"
    port = PORT

async def main():
    transport = Transport(Link, None)
    await transport.open()
    transport.write(b"\\0\\5hello")
    busy = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    busy.connect(socket.getaddrinfo("127.0.0.1", PORT)[0][-1])
    busy.write(b"busy")
    busy.read(1)  # all is sent by then
    for _ in range(3):
        print("got", bytes(await transport.read()))
    transport.close()

asyncio.run(main())
"""


def test_datagrams_that_come_together_stay_apart(tmp_path: Path) -> None:
    """An answer and a notification, say, while the board is busy with a sensor."""
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "edge_device").symlink_to(PACKAGE)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gateway:
        gateway.bind(("127.0.0.1", 0))
        gateway.settimeout(60)

        def answer() -> None:
            _, board = gateway.recvfrom(100)
            _, busy = gateway.recvfrom(100)
            for text in (b"one", b"two", b"three"):
                gateway.sendto(text, board)
            gateway.sendto(b"!", busy)

        answering = threading.Thread(target=answer)
        answering.start()
        output = run_script(
            "unix", tmp_path, READS.replace("PORT", str(gateway.getsockname()[1])), heap="512k", timeout=30
        )
        answering.join()
    assert output.splitlines() == ["got b'one'", "got b'two'", "got b'three'"]
