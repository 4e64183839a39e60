"""A seccomp filter (seccomp(2)) as BPF: everything is refused that is not named here.

Syscall numbers are those of arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_ALLOWED = {
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "close": (3, 57),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "gettid": (186, 178),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "poll": (7, None),
    "ppoll": (271, 73),
    "read": (0, 63),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "set_robust_list": (273, 99),
    "sigaltstack": (131, 132),
    "write": (1, 64),
}
"""What a running interpreter and a running guest need. No path, address or other process can be named with these."""

_NO_EXECUTE = {"mmap": (9, 222), "mprotect": (10, 226)}
"""Allowed as long as the memory is not executable."""

_COMPILER = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fstat": (5, 80),
    "gettimeofday": (96, 169),
    "lseek": (8, 62),
    "prctl": (157, 167),
    "sched_getaffinity": (204, 123),
}
"""What the compiler's threads need besides; it may also map executable memory."""

_KEEPER = {
    "capset": (126, 91),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "dup3": (292, 24),
    "dup2": (33, None),
    "getppid": (110, 173),
    "getsockname": (51, 204),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "kill": (62, 129),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "prctl": (157, 167),
    "prlimit64": (302, 261),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "seccomp": (317, 277),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "set_tid_address": (218, 96),
    "socketpair": (53, 199),
    "wait4": (61, 260),
}
"""What our own code besides needs to fork processes, confine and watch them. Nothing of a user's runs under this."""

_FATAL = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "execve": (59, 221),
    "execveat": (322, 281),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "io_uring_setup": (425, 425),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "reboot": (169, 142),
    "setns": (308, 268),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
"""Nothing tries these by accident: the process is killed."""

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_NR_OFFSET, _ARCH_OFFSET, _ARG2_OFFSET = 0, 4, 32
_PROT_EXEC = 4
_X32_BIT = 0x40000000
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _FLAG_TSYNC = 1, 1


def supported() -> bool:
    """Whether there is a filter for this machine's processor."""
    return platform.machine() in _AUDIT_ARCH


def program(*, compiler: bool = False, keeper: bool = False) -> bytes:
    """The filter for a running guest, for the compiler, or for those who keep native guests."""
    machine = platform.machine()
    column = 0 if machine == "x86_64" else 1
    code: list[bytes] = []

    def put(operation: int, k: int, if_true: int = 0, if_false: int = 0) -> None:
        code.append(struct.pack("HBBI", operation, if_true, if_false, k))

    def each(calls: dict[str, tuple[int, int | None]], action: int) -> None:
        for numbers in calls.values():
            number = numbers[column]
            if number is not None:
                put(_JEQ, number, 0, 1)
                put(_RET, action)

    put(_LOAD, _ARCH_OFFSET)
    put(_JEQ, _AUDIT_ARCH[machine], 1, 0)
    put(_RET, _KILL)
    put(_LOAD, _NR_OFFSET)
    if machine == "x86_64":
        put(_JGE, _X32_BIT, 0, 1)
        put(_RET, _KILL)
    each(dict(_FATAL), _KILL)
    each(dict(_ALLOWED), _ALLOW)
    if keeper:
        each(dict(_KEEPER), _ALLOW)
    if compiler:
        each({**_COMPILER, **_NO_EXECUTE}, _ALLOW)
    else:
        for numbers in _NO_EXECUTE.values():
            put(_JEQ, numbers[column], 0, 4)
            put(_LOAD, _ARG2_OFFSET)
            put(_JSET, _PROT_EXEC, 0, 1)
            put(_RET, _ERRNO | errno.EPERM)
            put(_RET, _ALLOW)
    put(_RET, _ERRNO | errno.EPERM)
    return b"".join(code)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(code: bytes) -> None:
    """Put a filter in force for all threads of this process, for good. Needs no_new_privs. Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code, len(code))
    parameters = _Program(len(code) // 8, ctypes.addressof(buffer))
    number = _SECCOMP[platform.machine()]
    if libc.syscall(number, _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(parameters)) != 0:
        raise OSError(ctypes.get_errno(), "the kernel refused the seccomp filter")
