"""What native functions try, and a process that lets them: run by test_escape_native.py as root and as another user.

Prints JSON: for each attempt its outcome, and whether the neighbour in the same executor noticed anything.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.clock import SystemClock
from edge_runtime.events import Event
from edge_runtime.flows.ports import NOTHING
from edge_runtime.functions.lane import Lane
from edge_runtime.functions.limits import MIB, Limits
from edge_runtime.functions.native import native_engine

MARK = "a-neighbour-keeps-this-to-itself"

LIMITS = Limits(time=150_000, tier="native", output=64 * 1024, memory=48 * MIB)

HEAD = """
import ctypes, gc, importlib.machinery, json, mmap, os, re, resource, select, signal, socket, struct, subprocess, sys
import threading, time, urllib.request, _posixshmem, fcntl
from edge import App
app = App("attempts")
X86 = {X86}
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    answer = libc.syscall(number, *arguments)
    if answer < 0: raise OSError(ctypes.get_errno(), "refused")
    return answer
def frame(body): os.write(3, len(body).to_bytes(4, "big") + body)
OK = b'{"type":"ok","effects":[],"logs":[],"value":null}'
BAD_KIND = b'{"type":"ok","effects":[{"type":"emit","kind":"a b","data":1}]}'
"""

REFUSED = {
    "open": "open('/etc/passwd')",
    "open_write": "open('/tmp/escaped', 'w')",
    "open_relative": "open('x', 'w')",
    "own_files": "open(os.__file__)",
    "listdir": "os.listdir('/')",
    "stat": "os.stat('/etc/passwd')",
    "chdir": "os.chdir('/')",
    "mkdir": "os.mkdir('/tmp/made')",
    "unlink": "os.unlink('/tmp/nothing')",
    "raw_open": "call(257 if X86 else 56, -100, b'/etc/passwd', 0)",
    "proc_maps": "open('/proc/self/maps')",
    "proc_memory": "open('/proc/self/mem', 'r+b')",
    "proc_environment": "open(f'/proc/{pids[0]}/environ')",
    "proc_parent_memory": "open(f'/proc/{pids[1]}/mem', 'rb')",
    "proc_root": "os.readlink(f'/proc/{pids[0]}/root')",
    "socket_tcp": "socket.socket()",
    "socket_udp": "socket.socket(type=socket.SOCK_DGRAM)",
    "socket_unix": "socket.socket(socket.AF_UNIX)",
    "socket_netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "socket_raw": "call(41 if X86 else 198, 2, 1, 0)",
    "socketpair": "socket.socketpair()",
    "resolve": "socket.getaddrinfo('localhost', 80)",
    "http": "urllib.request.urlopen('http://127.0.0.1/')",
    "fork": "os.fork()",
    "raw_clone": "call(56 if X86 else 220, 17, 0, 0, 0, 0)",
    "raw_clone3": "call(435, ctypes.create_string_buffer(88), 88)",
    "thread": "threading.Thread(target=print).start()",
    "subprocess": "subprocess.run(['ls'])",
    "system": "os.posix_spawn('/bin/true', ['true'], {})",
    "kill_parent": "os.kill(pids[1], 0)",
    "kill_executor": "os.kill(pids[0], 9)",
    "kill_zygote": "os.kill(os.getpid() - 1, 9)",
    "kill_all": "os.kill(-1, 9)",
    "kill_group": "os.killpg(0, 9)",
    "stop_itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "pidfd": "os.pidfd_open(pids[0])",
    "pidfd_getfd": "call(438, 3, 0, 0)",
    "alarm": "signal.setitimer(signal.ITIMER_REAL, 1)",
    "become_root": "os.setuid(0)",
    "become_root_saved": "os.setresuid(0, 0, 0)",
    "raise_limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))",
    "raise_memory": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "limit_executor": "resource.prlimit(pids[0], resource.RLIMIT_CPU, (1, 1))",
    "priority": "os.nice(-5)",
    "affinity": "os.sched_setaffinity(0, {0})",
    "execute_memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "make_executable": "call(10 if X86 else 226, ctypes.c_void_p(id(app) & ~4095), 4096, 7)",
    "load_code": "importlib.machinery.ExtensionFileLoader('x', '/x.so').create_module(importlib.machinery.ModuleSpec("
    "'x', None, origin='/x.so'))",
    "memfd": "os.memfd_create('x')",
    "shared_memory": "_posixshmem.shm_open('/x', os.O_CREAT | os.O_RDWR, mode=0o600)",
    "shmget": "call(29 if X86 else 194, 1, 4096, 0o1666)",
    "msgget": "call(68 if X86 else 186, 1, 0o1666)",
    "pipe": "os.pipe()",
    "dup": "os.dup(3)",
    "fcntl": "fcntl.fcntl(3, fcntl.F_SETOWN, pids[1])",
    "ioctl": "fcntl.ioctl(0, 0x5412, b'x')",
    "splice": "os.splice(3, 0, 10)",
    "prctl": "call(157 if X86 else 167, 1, 0, 0, 0, 0)",
    "another_filter": "call(317 if X86 else 277, 1, 0, None)",
    "another_jail": "call(444, None, 0, 1)",
    "hostname": "socket.sethostname('x')",
    "time_of_day": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "environment": "os.environ['PATH'] + os.environ['EDGE_TEST_SECRET']",
    "arguments": "sys.argv[1]",
    "command_line": "sys.orig_argv[0]",
    "gateway": "__import__('edge_runtime.config')",
    "gateway_loaded": "sys.modules['edge_runtime.functions.sandbox.jail']",
    "packages": "__import__('msgspec')",
    "sleep": "time.sleep(5)",
    "read_stdin": "os.read(0, 1)[0]",
}
"""An exception, inside. `pids` are those of the executor and of the gateway."""

KILLED = {
    "execve": "os.execv('/bin/true', ['true'])",
    "ptrace": "libc.ptrace(16, pids[1], 0, 0)",
    "ptrace_me": "libc.ptrace(0, 0, 0, 0)",
    "unshare": "libc.unshare(0x10000000)",
    "mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "setns": "libc.setns(0, 0)",
    "read_memory": "libc.process_vm_readv(pids[1], 0, 0, 0, 0, 0)",
    "write_memory": "libc.process_vm_writev(pids[0], 0, 0, 0, 0, 0)",
    "io_uring": "call(425, 1, 0)",
    "bpf": "call(321 if X86 else 280, 0, 0, 0)",
    "userfaultfd": "call(323 if X86 else 282, 0)",
    "keyring": "call(250 if X86 else 219, 0, -3, 1)",
}
"""A system call that nobody makes by mistake: the end of the process."""

HARM = {
    "loop": ("while True: pass", "timeout", "longer than 150 ms"),
    "swallowing_loop": (
        "\n    while True:\n      try:\n        while True: pass\n      except BaseException: pass",
        "timeout",
        "",
    ),
    "deaf_loop": (
        "\n    for n in range(1, 32):\n      try: signal.signal(n, signal.SIG_IGN)\n      except OSError: pass\n"
        "    while True: pass",
        "timeout",
        "",
    ),
    "regex": ("re.match(r'(a+)+$', 'a' * 40 + 'b')", "timeout", "longer than"),
    "power": ("10 ** 10 ** 8", "timeout", "longer than"),
    "native_sleep": ("libc.sleep(60)", "timeout", ""),
    "poll_nothing": ("select.poll().poll(60_000)", "timeout", ""),
    "read_for_ever": ("os.read(3, 1)", "timeout", ""),
    "gigabyte": ("bytearray(1 << 30)", "memory", "memory limit"),
    "hog": ("\n    kept = []\n    while True: kept.append(bytearray(1 << 20))", "memory", "memory limit"),
    "hog_by_malloc": ("ctypes.string_at(libc.malloc(1 << 30) or 0)", "crash", "memory that it does not have"),
    "hog_by_mmap": ("mmap.mmap(-1, 1 << 30)", "error", "Cannot allocate memory"),
    "recursion": ("\n    def f(): return f()\n    f()", "error", "RecursionError"),
    "recursion_unlimited": (
        "\n    sys.setrecursionlimit(10 ** 9)\n    def f(): return [f() for _ in (1,)]\n    f()",
        "",
        "",
    ),
    "flood": ("\n    while True: print('x')", "output", "log lines"),
    "long_line": ("\n    while True: print('x' * 1000, end='')", "output", "KiB of output"),
    "large": ("ctx.emit('x', 'y' * 100_000)", "output", "more than 64 KiB"),
    "null_pointer": ("ctypes.string_at(0)", "crash", "memory that it does not have"),
    "exit": ("os._exit(3)", "crash", "ended its interpreter (exit status 3)"),
    "abort": ("os.abort()", "crash", "interpreter broke"),
    "close_channel": ("os.close(3)", "crash", ""),
    "channel_as_socket": ("socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, 3).close()", "crash", ""),
    "forged_kind": ("frame(BAD_KIND)", "output", "kind is malformed"),
    "forged_nonsense": ("frame(b'nonsense')", "output", "not an outcome"),
    "forged_length": ("os.write(3, b'\\xff' * 8)", "output", "more than 64 KiB"),
    "forged_large": (
        "\n    try: frame(b'x' * 10_000_000)\n    except BaseException: pass",
        "output",
        "more than 64 KiB",
    ),
    "forged_end": ("frame(b'')", "output", "before its events were done"),
    "forged_half": ("os.write(3, b'\\0\\0\\0\\x63x'); \n    while True: pass", "timeout", ""),
    "forged_trickle": (
        "os.write(3, b'\\0\\0\\1\\0')\n    while True: os.write(3, b'x'); libc.usleep(20_000)",
        "timeout",
        "",
    ),
}
"""What is to become of it: the reason, and what is said."""

FORGED = {
    "forged_outcome": "frame(OK)",
    "forged_flood": "\n    while True: frame(OK)",
    "forged_end_of_run": "frame(OK); frame(b'')\n    while True: pass",
}
"""Lies about itself, which are its own affair: the outcome of the event is what it says first."""

SEEN = {
    "descriptors": "[n for n in range(64) if libc.read(n, ctypes.create_string_buffer(1), 0) == 0]",
    "neighbour": "sum(mark in repr(found) for held in gc.get_objects() for found in gc.get_referents(held)"
    " if type(found) in (str, bytes) and found is not mark)",
    "user": "libc.getuid() if libc.getuid() >= 0 else 'refused'",
    "path": "[*sys.path, *sys.argv, *sys.orig_argv]",
    "modules": "[name for name in sys.modules if name.partition('.')[0] in ('edge_runtime', 'msgspec', 'main')]",
    "random": "os.urandom(8).hex()",
}
"""Harmless questions; what they find is looked at."""

NEIGHBOUR = f"""
from edge import App
app = App("neighbour")
MARK = {MARK!r}
calls = 0
@app.route("climate", to="x")
def f(event):
    global calls
    calls += 1
    return [calls, MARK[:11]]
"""


def _functions() -> str:
    bodies = {
        **{name: f"ctx.emit('reached', repr({code}))" for name, code in {**REFUSED, **KILLED}.items()},
        **{name: code for name, (code, _, _) in HARM.items()},
        **FORGED,
        **{name: f"ctx.emit('seen', {code})" for name, code in SEEN.items()},
    }
    head = "pids = event.data['pids']\n    mark = event.data['kram'][::-1]"
    return "".join(
        f"@app.on('climate')\ndef {name}_(event, ctx):\n    {head}\n    {body}\n" for name, body in bodies.items()
    )


def _request(source: str) -> str:
    limits = {name: getattr(LIMITS, name) for name in ("output", "lines", "effects", "state")}
    return json.dumps({"files": {"attempts.py": source}, "entry": "attempts.py", "limits": limits})


def state_of(executor: int) -> list[str]:
    """The states of all processes below an executor, one letter each."""
    states = []
    for child in Path(f"/proc/{executor}/task/{executor}/children").read_text().split():
        states.append(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0])
        states += state_of(int(child))
    return states


async def attempts() -> dict[str, Any]:
    """Try everything, each in its turn, and see after each how the neighbour is."""
    engine = native_engine([])
    if "bare" in sys.argv:
        engine = msgspec.structs.replace(engine, module="tests.functions.native_bare")
    lane = Lane(engine, SystemClock())
    await lane.start()
    found: dict[str, Any] = {}
    try:
        await lane.load(1, _request(NEIGHBOUR), LIMITS)
        await lane.load(2, _request(HEAD.replace("{X86}", str(platform.machine() == "x86_64")) + _functions()), LIMITS)
        data = {"pids": [lane.remote.pid, os.getpid()], "kram": MARK[::-1]}
        event = Event("b1", b"bootboot", 1, "climate", 1_000_000, 2_000_000, data)
        for number, name in enumerate([*REFUSED, *KILLED, *HARM, *SEEN, *FORGED], 1):
            [outcome] = await lane.run(2, name + "_", [event], NOTHING, LIMITS)
            [well] = await lane.run(1, "f", [event], NOTHING, LIMITS)
            fine = getattr(well, "value", None) == [number, MARK[:11]]
            found[name] = {**json.loads(msgspec.json.encode(outcome)), "neighbour": fine}
        ready = lane.remote.ready
        found["_executor"] = {"restarts": lane.restarts, "jail": ready and msgspec.to_builtins(ready.jail)}
    finally:
        await lane.stop()
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(attempts())))
