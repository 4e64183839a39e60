"""The world of a core WebAssembly module: what it may import, and nothing else. `docs/languages.md` is its manual."""

from __future__ import annotations

import ctypes
import json
import math
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from edge._context import Context
from edge._event import Event
from edge._http import HttpError
from edge._reply import Reply
from wasmtime import Caller, FuncType, Linker, Memory, ValType

from edge_runtime.functions.sandbox.errors import Stopped

_MAX_PATH = 512
_MOST_KEPT = 8
"""What one call may hand over to be kept in this process is so many times its output limit; its own memory has a limit,
this process has none."""

_ENTRY = 256
"""Bytes that an entry of state takes besides its name and value."""

_MAX_PIECES = 1024
"""How many buffers one `fd_write` may name."""

_MAX_RANDOM = 64 * 1024
_LEVELS = ("debug", "info", "warning", "error")
_EVENT_FIELDS = ("device", "kind", "time", "data", "id", "seq", "boot", "received", "late")
_ERRNO_BADF, _ERRNO_SPIPE = 8, 70
_CHARACTER_DEVICE = 2

_decode = json.JSONDecoder().decode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode
_ABSENT = object()


class Failed(Exception):
    """The function said itself that it failed, or asked for something that it may not have."""


class Call:
    """The call that is going on in a module: loading it (`register` takes its app and triggers), or one event."""

    def __init__(self, register: Callable[[str, dict[str, Any]], None] | None, room: int) -> None:
        self.register = register
        self.room = room
        """Bytes of text that the module may hand over at once."""
        self.left = room * _MOST_KEPT
        """What it may still hand over that is kept here, in this process, until the call ends."""
        self.memory: Memory | None = None
        self.event: Event | None = None
        self.context: Context | None = None
        self.value: Any = None
        """What a route returns."""
        self.response: dict[str, Any] = {}
        """What came back from the last request."""

    @property
    def ctx(self) -> Context:
        """The context of the event at hand."""
        if self.context is None:
            raise Failed("there is no event yet: while the module is loaded it can only describe itself")
        return self.context


class Host:
    """The functions that modules import. `call` is set by whoever enters a module."""

    def __init__(self) -> None:
        self.call = Call(None, 0)

    def define(self, linker: Linker) -> None:
        """Offer all of them to modules."""
        for (module, name), (parameters, results) in SIGNATURES.items():
            function = getattr(self, f"_{module.partition('_')[0]}_{name.replace('.', '_')}")
            linker.define_func(module, name, FuncType(parameters, results), function, access_caller=True)

    # -- the module's memory

    def _place(self, caller: Caller, pointer: int, length: int) -> int:
        """The address of a piece of the module's memory."""
        memory = self.call.memory
        if memory is None:
            exported = caller.get("memory")
            if not isinstance(exported, Memory):
                raise Failed("the module exports no memory")
            memory = self.call.memory = exported
        pointer &= 0xFFFFFFFF
        length &= 0xFFFFFFFF
        if pointer + length > memory.data_len(caller):
            raise Failed("it handed over a place outside its memory")
        base = ctypes.cast(memory.data_ptr(caller), ctypes.c_void_p).value or 0
        return base + pointer

    def _bytes(self, caller: Caller, pointer: int, length: int) -> bytes:
        length &= 0xFFFFFFFF
        if not length:
            return b""
        if length > self.call.room:
            raise Stopped("output", f"more than {self.call.room // 1024} KiB of output at once")
        return ctypes.string_at(self._place(caller, pointer, length), length)

    def _text(self, caller: Caller, pointer: int, length: int) -> str:
        try:
            return self._bytes(caller, pointer, length).decode()
        except UnicodeDecodeError as error:
            raise Failed(f"it handed over text that is not UTF-8 ({error.reason})") from None

    def _json(self, caller: Caller, pointer: int, length: int) -> Any:
        text = self._text(caller, pointer, length)
        self._keep(len(text))
        try:
            return _decode(text) if text else None
        except (ValueError, RecursionError) as error:
            raise Failed(f"it handed over something that is not JSON ({error}): {text[:100]}") from None

    def _keep(self, size: int) -> None:
        self.call.left -= size
        if self.call.left < 0:
            raise Stopped("output", f"more than {self.call.room * _MOST_KEPT // 1024} KiB handed over in one call")

    def _put(self, caller: Caller, pointer: int, data: bytes) -> None:
        ctypes.memmove(self._place(caller, pointer, len(data)), data, len(data))

    def _answer(self, caller: Caller, data: bytes, pointer: int, capacity: int) -> int:
        """Write what fits; answer how much there is."""
        self._put(caller, pointer, data[: capacity & 0xFFFFFFFF])
        return len(data)

    # -- edge: what the module is

    def _edge_app(self, caller: Caller, pointer: int, length: int) -> None:
        self._registered("app", self._json(caller, pointer, length))

    def _edge_trigger(self, caller: Caller, pointer: int, length: int) -> None:
        self._registered("trigger", self._json(caller, pointer, length))

    def _registered(self, what: str, described: Any) -> None:
        if self.call.register is None:
            raise Failed(f"edge.{what} is for a module that is being loaded")
        if not isinstance(described, dict):
            raise Failed(f"edge.{what} takes a JSON object")
        self.call.register(what, described)

    # -- edge: what it is told

    def _look(self, caller: Caller, pointer: int, length: int) -> Any:
        """A value by its path: a field of the event (or of the last response) and names or positions below it.

        Or `state.` and a name.
        """
        if length & 0xFFFFFFFF > _MAX_PATH:
            raise Failed(f"a path is at most {_MAX_PATH} bytes long")
        path = self._text(caller, pointer, length)
        event, context = self.call.event, self.call.ctx
        if path.startswith("state."):
            return context.state.get(path[6:], _ABSENT)
        if not path:
            return {name: getattr(event, name) for name in _EVENT_FIELDS}
        first, *names = path.split(".")
        if first != "response" and first not in _EVENT_FIELDS:
            raise Failed(
                f"'{path}' is no path: an event has {', '.join(_EVENT_FIELDS)}; then there are state.NAME and response"
            )
        value = self.call.response if first == "response" else getattr(event, first)
        for name in names:
            if isinstance(value, dict):
                value = value.get(name, _ABSENT)
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                return _ABSENT
        return value

    def _edge_text(self, caller: Caller, path: int, length: int, pointer: int, capacity: int) -> int:
        value = self._look(caller, path, length)
        if value is _ABSENT:
            return -1
        text = value if isinstance(value, str) else _encode(value)
        return self._answer(caller, text.encode(errors="replace"), pointer, capacity)

    def _edge_number(self, caller: Caller, path: int, length: int) -> float:
        value = self._look(caller, path, length)
        return float(value) if isinstance(value, (int, float)) else math.nan

    def _edge_decimal(self, caller: Caller, number: float, pointer: int, capacity: int) -> int:
        whole = number.is_integer() and abs(number) < 2**53
        text = str(int(number)) if whole else repr(number) if math.isfinite(number) else "null"
        return self._answer(caller, text.encode(), pointer, capacity)

    # -- edge: what it does

    def _edge_command(
        self,
        caller: Caller,
        device: int,
        device_length: int,
        name: int,
        name_length: int,
        args: int,
        args_length: int,
        expires: float,
        key: int,
        key_length: int,
    ) -> None:
        ctx, event = self.call.ctx, self.call.event
        assert event is not None
        ctx.command(
            self._text(caller, device, device_length) or event.device,
            self._text(caller, name, name_length),
            self._json(caller, args, args_length),
            expires=expires or "60s",
            key=self._text(caller, key, key_length),
        )

    def _edge_emit(self, caller: Caller, kind: int, kind_length: int, data: int, data_length: int) -> None:
        self.call.ctx.emit(self._text(caller, kind, kind_length), self._json(caller, data, data_length))

    def _edge_defer(
        self,
        caller: Caller,
        kind: int,
        kind_length: int,
        data: int,
        data_length: int,
        after: float,
        key: int,
        key_length: int,
    ) -> None:
        self.call.ctx.defer(
            self._text(caller, kind, kind_length),
            self._json(caller, data, data_length),
            after=after,
            key=self._text(caller, key, key_length),
        )

    def _edge_cancel(self, caller: Caller, key: int, key_length: int) -> None:
        self.call.ctx.cancel(self._text(caller, key, key_length))

    def _edge_metric(self, caller: Caller, name: int, name_length: int, value: float) -> None:
        self.call.ctx.metric(self._text(caller, name, name_length), value)

    def _edge_http(self, caller: Caller, pointer: int, length: int) -> int:
        """Send a request; answers the status, or 0 where there was no answer. Look at `response` for the rest."""
        described = self._json(caller, pointer, length)
        if not isinstance(described, dict):
            raise Failed("edge.http takes a JSON object")
        try:
            found = self.call.ctx.http.request(**{"method": "GET", **described})
        except HttpError as error:
            self.call.response = {"status": 0, "error": str(error)}
            return 0
        self.call.response = {"status": found.status, "headers": found.headers, "text": found.text}
        with suppress(ValueError, RecursionError):
            self.call.response["data"] = found.json()
        return found.status

    def _edge_secret(self, caller: Caller, name: int, name_length: int, pointer: int, capacity: int) -> int:
        secret = self.call.ctx.secret(self._text(caller, name, name_length))
        return self._answer(caller, secret.encode(), pointer, capacity)

    def _edge_file(self, caller: Caller, path: int, path_length: int, pointer: int, capacity: int) -> int:
        """A file of the app's folder; -1 where there is none of that name."""
        files = self.call.ctx.files
        name = self._text(caller, path, path_length)
        return self._answer(caller, files.bytes(name), pointer, capacity) if name in files else -1

    def _edge_log(self, caller: Caller, level: int, pointer: int, length: int) -> None:
        if not 0 <= level < len(_LEVELS):
            raise Failed(f"{level} is not a level: 0 debug, 1 info, 2 warning, 3 error")
        self.call.ctx.log(self._text(caller, pointer, length), level=_LEVELS[level])

    def _edge_value(self, caller: Caller, pointer: int, length: int) -> None:
        self.call.value = self._json(caller, pointer, length)

    def _edge_reply(
        self, caller: Caller, status: int, kind: int, kind_length: int, body: int, body_length: int
    ) -> None:
        content = self._bytes(caller, body, body_length)
        self._keep(len(content))
        kind_of_content = self._text(caller, kind, kind_length)
        self.call.value = Reply(status, content or None, {"content-type": kind_of_content} if kind_of_content else None)

    def _edge_fail(self, caller: Caller, pointer: int, length: int) -> None:
        raise Failed(self._text(caller, pointer, length) or "the function failed")

    def _edge_state_set(
        self, caller: Caller, name: int, name_length: int, value: int, value_length: int, ttl: float
    ) -> None:
        self._set(caller, name, name_length, self._json(caller, value, value_length), ttl)

    def _edge_state_set_number(self, caller: Caller, name: int, name_length: int, value: float, ttl: float) -> None:
        whole = value.is_integer() and abs(value) < 2**53
        self._set(caller, name, name_length, int(value) if whole else value, ttl)

    def _set(self, caller: Caller, pointer: int, length: int, value: Any, ttl: float) -> None:
        self._keep(_ENTRY)
        self.call.ctx.state.set(self._text(caller, pointer, length), value, ttl=ttl or None)

    def _edge_state_delete(self, caller: Caller, name: int, name_length: int) -> None:
        self._keep(_ENTRY)
        self.call.ctx.state.pop(self._text(caller, name, name_length), None)

    # -- env: what AssemblyScript's library asks for; its texts are UTF-16 with their length before them

    def _script_text(self, caller: Caller, pointer: int) -> str:
        if not pointer:
            return ""
        length = int.from_bytes(self._bytes(caller, pointer - 4, 4), "little")
        return self._bytes(caller, pointer, length).decode("utf-16-le", "replace")

    def _env_abort(self, caller: Caller, message: int, file: int, line: int, column: int) -> None:
        place = f"{self._script_text(caller, file) or 'the module'}, line {line}, column {column}"
        raise Failed(f"{self._script_text(caller, message) or 'aborted'} <- {place}")

    def _env_seed(self, _caller: Caller) -> float:
        return random.random()

    def _env_Date_now(self, _caller: Caller) -> float:  # noqa: N802 - the name of the import
        return float(time.time_ns() // 1_000_000)

    def _env_console_log(self, caller: Caller, text: int) -> None:
        self.call.ctx.log(self._script_text(caller, text))

    _env_console_info = _env_console_log

    def _env_console_debug(self, caller: Caller, text: int) -> None:
        self.call.ctx.log(self._script_text(caller, text), level="debug")

    def _env_console_warn(self, caller: Caller, text: int) -> None:
        self.call.ctx.log(self._script_text(caller, text), level="warning")

    def _env_console_error(self, caller: Caller, text: int) -> None:
        self.call.ctx.log(self._script_text(caller, text), level="error")

    # -- wasi_snapshot_preview1: what a C or Rust library links without being asked; there is nothing behind it

    def _nothing(self, caller: Caller, first: int, second: int) -> int:
        """No arguments, no environment: none, of no size."""
        self._put(caller, first, bytes(4))
        self._put(caller, second, bytes(4))
        return 0

    _wasi_args_sizes_get = _wasi_environ_sizes_get = _nothing

    def _wasi_args_get(self, _caller: Caller, _first: int, _second: int) -> int:
        return 0

    _wasi_environ_get = _wasi_args_get

    def _wasi_clock_time_get(self, caller: Caller, clock: int, _precision: int, pointer: int) -> int:
        now = time.time_ns() if clock == 0 else time.monotonic_ns()
        self._put(caller, pointer, now.to_bytes(8, "little"))
        return 0

    def _wasi_random_get(self, caller: Caller, pointer: int, length: int) -> int:
        length &= 0xFFFFFFFF
        if length > _MAX_RANDOM:
            raise Failed(f"more than {_MAX_RANDOM // 1024} KiB of random bytes at once")
        self._put(caller, pointer, os.urandom(length))
        return 0

    def _wasi_fd_write(self, caller: Caller, fd: int, pieces: int, count: int, written: int) -> int:
        if fd not in (1, 2):
            return _ERRNO_BADF
        count = min(count & 0xFFFFFFFF, _MAX_PIECES)
        table = self._bytes(caller, pieces, 8 * count)
        total = 0
        for start in range(0, len(table), 8):
            pointer, length = (int.from_bytes(table[at : at + 4], "little") for at in (start, start + 4))
            text = self._bytes(caller, pointer, length).decode(errors="replace")
            self._keep(len(text))
            if self.call.context is not None:
                self.call.context._write(text, "info" if fd == 1 else "warning")
            total += length
        self._put(caller, written, (total & 0xFFFFFFFF).to_bytes(4, "little"))
        return 0

    def _wasi_fd_fdstat_get(self, caller: Caller, fd: int, pointer: int) -> int:
        if fd not in (0, 1, 2):
            return _ERRNO_BADF
        self._put(caller, pointer, bytes([_CHARACTER_DEVICE]) + bytes(23))
        return 0

    def _wasi_fd_seek(self, _caller: Caller, _fd: int, _offset: int, _whence: int, _pointer: int) -> int:
        return _ERRNO_SPIPE

    def _wasi_fd_close(self, _caller: Caller, _fd: int) -> int:
        return _ERRNO_BADF

    def _wasi_fd_prestat_get(self, _caller: Caller, _fd: int, _pointer: int) -> int:
        return _ERRNO_BADF

    def _wasi_fd_prestat_dir_name(self, _caller: Caller, _fd: int, _pointer: int, _length: int) -> int:
        return _ERRNO_BADF

    def _wasi_proc_exit(self, _caller: Caller, status: int) -> None:
        raise Stopped("crash", f"the function ended its program (exit status {status})")


def _signature(text: str) -> tuple[list[ValType], list[ValType]]:
    kinds = {"i": ValType.i32, "I": ValType.i64, "d": ValType.f64}
    parameters, _, results = text.partition(":")
    return [kinds[letter]() for letter in parameters], [kinds[letter]() for letter in results]


_WASI = "wasi_snapshot_preview1"
_ALL = {
    "edge": "app=ii trigger=ii text=iiii:i number=ii:d decimal=dii:i command=iiiiiidii emit=iiii defer=iiiidii "
    "cancel=ii log=iii value=ii reply=iiiii fail=ii metric=iid http=ii:i secret=iiii:i file=iiii:i "
    "state_set=iiiid state_set_number=iidd state_delete=ii",
    "env": "abort=iiii seed=:d Date.now=:d console.log=i console.info=i console.debug=i console.warn=i console.error=i",
    _WASI: "args_sizes_get=ii:i args_get=ii:i environ_sizes_get=ii:i environ_get=ii:i clock_time_get=iIi:i "
    "random_get=ii:i fd_write=iiii:i fd_fdstat_get=ii:i fd_seek=iIii:i fd_close=i:i fd_prestat_get=ii:i "
    "fd_prestat_dir_name=iii:i proc_exit=i",
}

SIGNATURES = {
    (module, name): _signature(signature)
    for module, functions in _ALL.items()
    for name, _, signature in (function.partition("=") for function in functions.split())
}
"""Everything that a module may import: (module, name) -> parameters and results (i32, i64 `I`, f64)."""
