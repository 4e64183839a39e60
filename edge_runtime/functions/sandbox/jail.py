"""Takes from a process what it does not need: root, capabilities, files, network, other processes. For good.

Two steps, because the executor needs a thread and shared memory in between: `confine` before, `lock` after.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

import msgspec

from edge_runtime.errors import EdgeError
from edge_runtime.functions.sandbox import seccomp

NOBODY = 65534

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION = 0x20080522
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_FILES = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many access rights to files each ABI of Landlock knows; 16 from the fifth on."""


class JailError(EdgeError):
    """The process cannot be confined; nothing of a user's may run in it."""


class Confinement(msgspec.Struct, frozen=True):
    """What `confine` brought into force."""

    uid: int
    root_dropped: bool
    """False where the process was not root to begin with."""
    capabilities_dropped: bool
    no_new_privileges: bool
    landlock: int
    """The kernel's Landlock ABI in force; 0 where it has none."""
    missing: list[str] = []
    """What this kernel or this container does not offer, for a person to read."""


class JailReport(Confinement, frozen=True):
    """What is in force in a jailed process."""

    seccomp: bool = False
    limits: dict[str, int] = {}
    """The resource limits, by the names of setrlimit(2)."""


def confine() -> Confinement:
    """Give up root, capabilities and the way back to them, and all files where the kernel has Landlock.

    Call it with a single thread; threads started later inherit it.
    """
    missing: list[str] = []
    was_root = os.geteuid() == 0
    if was_root:
        _drop_bounding_set()
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        except OSError as error:
            missing.append(f"root could not be dropped: {error.strerror}")
    capabilities = _drop_capabilities()
    if not capabilities:
        missing.append("capabilities could not be dropped")
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise JailError("the kernel refused no_new_privs", hint="The sandbox needs Linux 3.17 or later.")
    landlock = _landlock()
    if not landlock:
        missing.append("this kernel has no Landlock; seccomp alone holds files and network")
    return Confinement(os.geteuid(), was_root and os.geteuid() != 0, capabilities, True, landlock, missing)


def lock(confinement: Confinement, *, compiler: bool = False, keeper: bool = False) -> JailReport:
    """Refuse all further syscalls but the few that running a guest takes, in every thread.

    A `compiler` may besides make threads and code. A `keeper` forks native guests, confines and ends them.
    """
    if not seccomp.supported():
        raise JailError("there is no seccomp filter for this processor", hint="The sandbox runs on x86_64 and aarch64.")
    limits = {"core": 0, "fsize": 0} if keeper else {"core": 0, "nofile": 16}
    if not compiler and not keeper:
        limits |= {"nproc": 0, "fsize": 0}
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
    try:
        seccomp.install(seccomp.program(compiler=compiler, keeper=keeper))
    except OSError as error:
        raise JailError(
            f"the sandbox cannot be locked: {error.strerror}",
            hint="The kernel needs CONFIG_SECCOMP_FILTER, and a container must allow seccomp(2).",
        ) from error
    return JailReport(**msgspec.structs.asdict(confinement), seccomp=True, limits=limits)


def _drop_bounding_set() -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            break  # past the last one that this kernel knows, or not ours to drop


def _drop_capabilities() -> bool:
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)()
    return bool(_libc.capset(ctypes.byref(header), ctypes.byref(data)) == 0)


def _landlock() -> int:
    """Handle every right to files, TCP, abstract sockets and signals, and allow none."""
    abi = int(_libc.syscall(_LANDLOCK_CREATE, None, 0, 1))
    if abi < 1:
        return 0
    files = (1 << _LANDLOCK_FILES.get(abi, 16)) - 1
    attributes = struct.pack("QQQ", files, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = int(_libc.syscall(_LANDLOCK_CREATE, attributes, size, 0))
    if ruleset < 0:
        return 0
    try:
        return abi if _libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0 else 0
    finally:
        os.close(ruleset)
