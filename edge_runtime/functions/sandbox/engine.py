"""How wasmtime is set up. Compiled guests fit only the engine they were compiled for."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from wasmtime import Config, Engine

TICK = 0.005
"""Seconds between two epochs: how finely deadlines are told. Each tick costs about 20 us of CPU."""

SMALL_RESERVATION = 128 * 1024 * 1024
SMALL_GUARD = 64 * 1024
"""Where addresses have 39 bits (many ARM kernels), the usual 6 GiB of address space per instance are too much."""


def small_addresses() -> bool:
    """Whether this process has less than 40 bits of address space."""
    try:
        last = Path("/proc/self/maps").read_text().rstrip().splitlines()
    except OSError:
        return platform.machine() != "x86_64"
    highest = max(int(line.split("-", 1)[0], 16) for line in last if "[vsyscall]" not in line)
    return highest < 1 << 40


def engine() -> Engine:
    """The engine that guests are compiled for and run on: stoppable at any loop or call."""
    return Engine(_config())


def core_engine() -> Engine:
    """The engine of users' own modules: less of WebAssembly, so that what they make the compiler do is well trodden.

    Shared memories are not counted by a store's limits; collected objects and exceptions need what nobody here has.
    """
    config = _config()
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_gc = False
    config.wasm_function_references = False
    config.wasm_exceptions = False
    config.wasm_relaxed_simd = False
    return Engine(config)


def _config() -> Config:
    config = Config()
    config.epoch_interruption = True
    if small_addresses():
        config.memory_reservation = SMALL_RESERVATION
        config.memory_guard_size = SMALL_GUARD
    return config


def fingerprint(*, core: bool = False) -> str:
    """Names everything that a compiled guest (or `core` module) depends on besides its source, as 16 hex digits."""
    from importlib.metadata import version  # 1 MB that an executor, which does not ask, can do without

    parts = [version("wasmtime"), platform.machine(), _cpu_features(), f"epochs small={small_addresses()}"]
    parts += ["core"] * core
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
