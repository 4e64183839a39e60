"""A user's .wasm: looked at, compiled and cached. What compiles it can reach nothing, and eat up little."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from edge_runtime.errors import DeployError
from edge_runtime.functions.sandbox import cache, engine, jail
from edge_runtime.functions.sandbox.cache import Progress
from edge_runtime.functions.sandbox.spawn import command

ABI = "core-1"
"""Names what modules are offered; part of their apps' versions."""

_ELF = b"\x7fELF"
_MAGIC = b"\0asm"
_CORE = b"\x01\0\0\0"
_MAX_SAID = 2000

MAX_MODULE = 4 * 1024 * 1024
"""Bytes. C and AssemblyScript make some ten thousand, Rust with its library a few hundred thousand."""

CPU_SECONDS = 20
"""A megabyte of ordinary code takes about a second on a desktop; what is made to take for ever ends here."""

PATIENCE = 60.0
"""Seconds of wall time: the machine may be busy."""

MEMORY = 768 * 1024 * 1024
"""Bytes the compiler may use: some 200 for a megabyte of code."""

MAX_CODE = 64 * 1024 * 1024
"""Bytes of machine code."""


def look(name: str, content: bytes) -> None:
    """Refuse what is plainly not a core module, before anything is started for it. Raises `DeployError`."""
    if content.startswith(_ELF):
        raise DeployError(
            f"{name} is machine code, which nobody can check", hint="Deploy the .wasm that it was compiled from."
        )
    if not content.startswith(_MAGIC):
        raise DeployError(f"{name} is not a WebAssembly module: it does not begin with \\0asm")
    if len(content) > MAX_MODULE:
        raise DeployError(
            f"{name} is larger than {MAX_MODULE >> 20} MiB", hint="Leave out debug information, and optimise for size."
        )
    if content[4:8] != _CORE:
        raise DeployError(
            f"{name} is a WebAssembly component, or of an unknown version",
            hint="Build a core module: docs/languages.md has examples.",
        )


def compiled(name: str, content: bytes, folder: Path, progress: Progress) -> Path:
    """The machine code of a module, from the cache or newly compiled. Blocks. Raises `DeployError`."""
    look(name, content)
    digest = hashlib.sha256(content).hexdigest()[:32]
    path = cache.prepare(folder) / f"module-{digest}-{ABI}-{engine.fingerprint(core=True)}.cwasm"
    if cache.is_own(path):
        return path
    with cache.locked(folder, progress):
        if not cache.is_own(path):
            with cache.written(path) as target:
                _compile(name, content, target)
    return path


def prune(folder: Path) -> None:
    """Remove what nobody has opened for a month. To be called before any module runs: it may do so for longer."""
    cache.prune(folder, folder, time.time(), "module-*")


def _compile(name: str, content: bytes, target: Path) -> None:
    with target.open("wb") as output:
        try:
            done = subprocess.run(
                command(__name__),
                input=content,
                stdout=output,
                stderr=subprocess.PIPE,
                env={},
                start_new_session=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeployError(f"{name}: compiling it took more than {PATIENCE:.0f} s") from None
    if done.returncode == 0:
        return
    said = done.stderr.decode(errors="replace").strip()[-_MAX_SAID:]
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise DeployError(f"{name}: compiling it took more than {CPU_SECONDS} s of processor time")
    if done.returncode < 0 or not said:
        raise DeployError(
            f"{name}: the compiler could not manage it (exit status {done.returncode})", hint="Is it very large?"
        )
    raise DeployError(f"{name}: {said}")


def main() -> None:
    """The compiling process: a module from stdin, its machine code to stdout; what is wrong with it to stderr."""
    from wasmtime import Module, WasmtimeError

    from edge_runtime.functions.sandbox.core_host import SIGNATURES

    with open(0, "rb", closefd=False) as source:
        wasm = source.read()
    compiler = engine.core_engine()
    os.nice(10)
    for limit, most in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_DATA, MEMORY),
        (resource.RLIMIT_FSIZE, MAX_CODE),
    ):
        resource.setrlimit(limit, (most, most))
    try:
        jail.lock(jail.confine(), compiler=True)
    except jail.JailError as error:
        sys.exit(f"{error}. {error.hint}".rstrip())
    try:
        module = Module(compiler, wasm)
    except (WasmtimeError, ValueError) as error:
        sys.exit(f"it is not a valid module: {_plainly(str(error))}")
    from wasmtime import FuncType, MemoryType

    for wanted in module.imports:
        named = f"'{wanted.name}' of '{wanted.module}'"
        signature = SIGNATURES.get((wanted.module, wanted.name or ""))
        if signature is None or not isinstance(wanted.type, FuncType):
            sys.exit(f"it imports {named}, which functions do not have; docs/languages.md lists what they have")
        if (_types(wanted.type.params), _types(wanted.type.results)) != tuple(map(_types, signature)):
            sys.exit(f"it imports {named} as {_shown(wanted.type)}, but it is {_shown(FuncType(*signature))}")
    if not any(found.name == "memory" and isinstance(found.type, MemoryType) for found in module.exports):
        sys.exit("it exports no memory under the name 'memory'")
    code = memoryview(module.serialize())
    while code:
        code = code[os.write(1, code) :]
    sys.exit(0)


def _types(types: object) -> list[str]:
    return [str(kind) for kind in types]  # type: ignore[attr-defined]


def _shown(function: object) -> str:
    parameters, results = _types(function.params), _types(function.results)  # type: ignore[attr-defined]
    return f"({', '.join(parameters)})" + (f" -> {', '.join(results)}" if results else "")


def _plainly(message: str) -> str:
    """The cause of a wasmtime error, without its scaffolding."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and line.strip() != "Caused by:"]
    return (lines[-1] if lines else "no reason given").removeprefix("0: ")[:500]
