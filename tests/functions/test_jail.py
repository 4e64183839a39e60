from __future__ import annotations

import errno
import struct

import pytest

from edge_runtime.functions.sandbox import jail, seccomp

CONFINED = jail.Confinement(1000, False, True, True, 0, ["no Landlock"])


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(jail.JailError, match="no seccomp filter for this processor"):
        jail.lock(CONFINED)


def run(program: bytes, number: int, arch: int, argument: int = 0) -> int:
    """What a filter answers: an interpreter of the few BPF instructions that it uses."""
    data = struct.pack("<iIQ6Q", number, arch, 0, 0, 0, argument, 0, 0, 0)
    code = list(struct.iter_unpack("HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, if_true, if_false, k = code[at]
        at += 1
        match operation:
            case 0x20:
                [accumulator] = struct.unpack_from("<I", data, k)
            case 0x15:
                at += if_true if accumulator == k else if_false
            case 0x35:
                at += if_true if accumulator >= k else if_false
            case 0x45:
                at += if_true if accumulator & k else if_false
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(operation)


ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@pytest.mark.parametrize(
    ("machine", "number", "argument", "answer"),
    [
        ("x86_64", 0, 0, ALLOW),  # read
        ("x86_64", 257, 0, REFUSE),  # openat
        ("x86_64", 41, 0, REFUSE),  # socket
        ("x86_64", 56, 0, REFUSE),  # clone
        ("x86_64", 59, 0, KILL),  # execve
        ("x86_64", 9, 3, ALLOW),  # mmap, readable and writable
        ("x86_64", 9, 7, REFUSE),  # mmap, executable
        ("x86_64", 10, 4, REFUSE),  # mprotect, executable
        ("x86_64", 0x40000000, 0, KILL),  # read by the x32 way
        ("aarch64", 63, 0, ALLOW),  # read
        ("aarch64", 56, 0, REFUSE),  # openat
        ("aarch64", 198, 0, REFUSE),  # socket
        ("aarch64", 220, 0, REFUSE),  # clone
        ("aarch64", 221, 0, KILL),  # execve
        ("aarch64", 222, 3, ALLOW),
        ("aarch64", 222, 4, REFUSE),
        ("aarch64", 226, 5, REFUSE),
        ("aarch64", 9999, 0, REFUSE),
    ],
)
def test_the_filter_of_either_processor(
    machine: str, number: int, argument: int, answer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    program = seccomp.program()
    assert run(program, number, MACHINES[machine], argument) == answer
    for other in {*MACHINES.values()} - {MACHINES[machine]}:
        assert run(program, number, other, argument) == KILL, "system calls by another numbering"


@pytest.mark.parametrize("machine", MACHINES)
def test_keepers_may_fork_and_kill_but_reach_nothing(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    program = seccomp.program(keeper=True)
    x86 = machine == "x86_64"
    allowed = {"clone": 56 if x86 else 220, "kill": 62 if x86 else 129, "wait4": 61 if x86 else 260}
    refused = {"openat": 257 if x86 else 56, "socket": 41 if x86 else 198, "connect": 42 if x86 else 203}
    assert {run(program, number, MACHINES[machine]) for number in allowed.values()} == {ALLOW}
    assert {run(program, number, MACHINES[machine]) for number in refused.values()} == {REFUSE}
    assert run(program, 9 if x86 else 222, MACHINES[machine], 7) == REFUSE
    assert run(program, 59 if x86 else 221, MACHINES[machine]) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_the_compiler_may_make_code_and_threads_but_reaches_nothing(
    machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    program = seccomp.program(compiler=True)
    x86 = machine == "x86_64"
    assert run(program, 9 if x86 else 222, MACHINES[machine], 7) == ALLOW
    assert run(program, 56 if x86 else 220, MACHINES[machine]) == ALLOW
    assert run(program, 257 if x86 else 56, MACHINES[machine]) == REFUSE
    assert run(program, 41 if x86 else 198, MACHINES[machine]) == REFUSE
    assert run(program, 59 if x86 else 221, MACHINES[machine]) == KILL
