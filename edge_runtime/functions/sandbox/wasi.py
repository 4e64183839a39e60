"""The world that a guest sees (WASI 0.2): clocks, randomness, and doors that are shut.

Nothing of wasmtime's own WASI is linked: it has files, sockets and a thread pool behind it, and in a locked process the
first use of that pool ends the process. What is not defined here traps, which costs the guest its instance; what
functions may come across by accident is defined, and refuses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wasmtime import Engine, StoreContext
from wasmtime.component import Component, Linker, ResourceAny, ResourceHost, ResourceType

from edge_runtime.functions.sandbox.errors import Stopped

MAX_RANDOM = 64 * 1024
"""Random bytes in one call: they are handed over one by one, during which no deadline holds."""

_POLLABLE, _NETWORK = 1, 2

_DENIED = "access-denied"
"""The error of a `result` whose success is a resource."""


@dataclass(frozen=True)
class _Datetime:
    seconds: int
    nanoseconds: int


def _now(_store: StoreContext) -> _Datetime:
    return _Datetime(*divmod(time.time_ns(), 1_000_000_000))


def _random_bytes(_store: StoreContext, length: int) -> bytes:
    if length > MAX_RANDOM:
        raise Stopped("error", f"more than {MAX_RANDOM // 1024} KiB of random bytes at once")
    return os.urandom(length)


def _all_ready(store: StoreContext, pollables: list[ResourceAny]) -> list[int]:
    """Whatever a guest waits for is ready at once.

    Deadlines do not hold in host calls, so nothing may wait in one; a guest that waits in a loop is stopped like any
    other loop.
    """
    for pollable in pollables:
        pollable.drop(store)  # only the loan of it
    return list(range(len(pollables)))


def _ready(store: StoreContext, pollable: ResourceAny) -> bool:
    pollable.drop(store)
    return True


def _resolve(store: StoreContext, network: ResourceAny, _name: str) -> str:
    network.drop(store)
    return _DENIED


def _exit(_store: StoreContext, *_status: object) -> None:
    raise Stopped("crash", "the function ended its interpreter")


def _pollable(_store: StoreContext, _when: int = 0) -> ResourceHost:
    return ResourceHost.own(0, _POLLABLE)


Functions = Mapping[str, Callable[..., Any]]

_FUNCTIONS: Mapping[str, Functions] = {
    "wasi:cli/environment": {
        "get-environment": lambda _: [],
        "get-arguments": lambda _: [],
        "initial-cwd": lambda _: None,
    },
    "wasi:cli/exit": {"exit": _exit},
    "wasi:cli/terminal-stdin": {"get-terminal-stdin": lambda _: None},
    "wasi:cli/terminal-stdout": {"get-terminal-stdout": lambda _: None},
    "wasi:cli/terminal-stderr": {"get-terminal-stderr": lambda _: None},
    "wasi:clocks/monotonic-clock": {
        "now": lambda _: time.monotonic_ns(),
        "resolution": lambda _: 1,
        "subscribe-duration": _pollable,
        "subscribe-instant": _pollable,
    },
    "wasi:clocks/wall-clock": {"now": _now, "resolution": lambda _: _Datetime(0, 1000)},
    "wasi:filesystem/preopens": {"get-directories": lambda _: []},
    "wasi:io/poll": {
        "poll": _all_ready,
        "[method]pollable.block": _ready,
        "[method]pollable.ready": _ready,
    },
    "wasi:random/random": {
        "get-random-bytes": _random_bytes,
        "get-random-u64": lambda _: int.from_bytes(os.urandom(8), "big"),
    },
    "wasi:sockets/instance-network": {"instance-network": lambda _: ResourceHost.own(0, _NETWORK)},
    "wasi:sockets/ip-name-lookup": {"resolve-addresses": _resolve},
    "wasi:sockets/tcp-create-socket": {"create-tcp-socket": lambda _store, _family: _DENIED},
    "wasi:sockets/udp-create-socket": {"create-udp-socket": lambda _store, _family: _DENIED},
}

_RESOURCES = {"wasi:io/poll": ("pollable", _POLLABLE), "wasi:sockets/network": ("network", _NETWORK)}


def _nothing_to_free(_store: StoreContext, _representation: int) -> None:
    """Our resources are numbers."""


def define(linker: Linker, component: Component, engine: Engine, host: Functions) -> None:
    """Link a guest to the world above and to our own `host` functions, whatever versions it was built with."""
    linker.allow_shadowing = True
    linker.define_unknown_imports_as_traps(component)
    with linker.root() as root:
        for name in component.type.imports(engine):
            interface = name.partition("@")[0]
            functions = host if interface == "edge:guest/host" else _FUNCTIONS.get(interface, {})
            resource = _RESOURCES.get(interface)
            if not functions and resource is None:
                continue
            with root.add_instance(name) as instance:
                if resource is not None:
                    instance.add_resource(resource[0], ResourceType.host(resource[1]), _nothing_to_free)
                for function, implementation in functions.items():
                    instance.add_func(function, implementation)
