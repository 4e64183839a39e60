"""Attempts to get out: first out of the guest, then, as if the guest had been broken out of, out of the jail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.errors import DeployError
from edge_runtime.flows.flow import Failed, Turn
from edge_runtime.flows.function import FunctionFlow
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.sandbox.spawn import python
from edge_runtime.manifest import OnEvent

from .conftest import app, deploy, event, failed, ok

NOBODY = 65534

FROM_THE_GUEST = {
    "open": "open('/etc/passwd').read()",
    "open_relative": "open('x', 'w')",
    "read_stdin": "os.read(0, 1)[0]",
    "write_stdout": "os.write(1, b'x')",
    "write_stderr": "os.write(2, b'x')",
    "random": "os.urandom(10_000) and 1 / 0",
    "listdir": "os.listdir('/')",
    "walk_up": "os.listdir('../../..')",
    "stat": "os.stat('/etc/passwd')",
    "mkdir": "os.mkdir('x')",
    "environment": "os.environ['PATH']",
    "arguments": "sys.argv[1]",
    "connect": "socket.socket().connect(('127.0.0.1', 22))",
    "bind": "socket.socket().bind(('127.0.0.1', 0))",
    "udp": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "unix_socket": "socket.socket(socket.AF_UNIX)",
    "resolve": "socket.getaddrinfo('localhost', 80)",
    "http": "urllib.request.urlopen('http://127.0.0.1/')",
    "thread": "threading.Thread(target=print).start()",
    "fork": "os.fork()",
    "kill": "os.kill(1, 9)",
    "subprocess": "subprocess.run(['ls'])",
    "system": "os.system('ls')",
    "ctypes": "__import__('ctypes')",
    "mmap": "__import__('mmap').mmap(-1, 4096)",
    "extension": "importlib.machinery.ExtensionFileLoader('x', '/x.so').load_module('x')",
    "import_path": "(sys.path.append('/'), importlib.import_module('etc'))",
    "gateway": "__import__('edge_runtime')",
    "home": "os.path.expanduser('~/.ssh') if os.path.exists('/root') or os.path.exists('/home') else 1 / 0",
}


@pytest.mark.parametrize("attempt", FROM_THE_GUEST)
async def test_escape_from_the_guest_is_refused(platform: FunctionPlatform, attempt: str) -> None:
    body = f"""
import importlib, importlib.machinery, os, socket, subprocess, sys, threading, urllib.request
@app.on("climate")
def f(event, ctx):
    ctx.emit("reached", repr({FROM_THE_GUEST[attempt]}))
"""
    ref = await deploy(platform, app(body))
    [outcome] = await platform.invoke(ref("f"), [event()])
    assert failed(outcome).reason == "error", outcome
    assert platform.stats().restarts == 0


async def test_escape_by_asking_for_more_once_it_was_approved(platform: FunctionPlatform) -> None:
    """What is approved is what an app says when it is checked: one that says another thing later does not run."""
    files = {
        "greenhouse.py": b"import secrets\nfrom edge import App\n"
        b"app = App('greenhouse', grants=[f'secret:s{secrets.randbits(60)}'])\n"
        b"@app.on('climate')\ndef f(event): pass\n"
    }
    with pytest.raises(DeployError, match="describes itself otherwise than when it was deployed"):
        await deploy(platform, files)


async def test_escape_through_the_host_interface_reaches_only_its_own_outcome(platform: FunctionPlatform) -> None:
    """A function can find the host's `done`. What it says there is checked like everything that comes out."""
    body = """
from wit_world.imports import host
@app.on("climate")
def granted(event):
    order = '{"type":"command","device":"b2","name":"fan","args":null,"ttl":1}'
    host.done('{"type":"ok","effects":[' + order + ']}')
@app.on("climate")
def nonsense(event): host.done("nonsense")
@app.on("climate")
def more(event):
    while True: host.done('{"type":"ok"}')
@app.on("climate")
def large(event): host.done("x" * 10_000_000)
"""
    ref = await deploy(platform, app(body))
    said = {}
    for name in ("nonsense", "more", "large"):
        outcomes = await platform.invoke(ref(name), [event(seq=1), event(seq=2)])
        assert len(outcomes) == 2
        said[name] = outcomes[0]
    granted, trigger = ref("granted"), OnEvent("granted", "climate")
    flow = FunctionFlow(
        granted.app, granted.version, trigger, matches=lambda data: True, invoker=platform, clock=ManualClock()
    )
    [result] = (await flow.take([event()], Turn(0))).results
    assert isinstance(result, Failed)
    assert "a command to 'b2' was not granted" in result.letter.detail
    assert failed(said["nonsense"]).reason == "output"
    assert ok(said["more"]).effects == []
    assert failed(said["large"]).reason == "output"


async def test_escape_by_breaking_our_side_of_the_guest_hurts_only_the_app(platform: FunctionPlatform) -> None:
    body = """
import edge._runtime, json, sys, builtins
def wreck(*a, **k): return "wrecked"
edge._runtime.dumps = edge._runtime._call = edge._runtime._failed = json.dumps = wreck
builtins.isinstance = wreck
@app.on("climate")
def f(event, ctx): ctx.emit("x", 1)
"""
    with pytest.raises(DeployError, match=r"malformed|broke|functions have no"):
        await platform.check(app(body, "wreck"))
    ref = await deploy(platform, app('@app.route("climate", to="x")\ndef f(e): return 1\n'))
    assert [ok(o).value for o in await platform.invoke(ref("f"), [event()])] == [1]


JAILED = """
import ctypes, fcntl, mmap, os, resource, select, socket, threading, time
from edge_runtime.functions.sandbox import jail
libc = ctypes.CDLL(None, use_errno=True)
if {ordinary} and os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
confinement = jail.confine()
jail.lock(confinement)
def attempt():
    {code}
try:
    attempt()
except OSError as error:
    os.write(1, b"refused")
except BaseException as error:
    os.write(1, repr(error).encode())
else:
    os.write(1, b"REACHED")
os._exit(0)
"""

REFUSED = {
    "open": "open('/etc/passwd')",
    "open_write": "open('/tmp/escaped', 'w')",
    "stat": "os.stat('/etc/passwd')",
    "listdir": "os.listdir('/')",
    "chdir": "os.chdir('/')",
    "unlink": "os.unlink('/tmp/nothing')",
    "parent_environment": "open(f'/proc/{os.getppid()}/environ')",
    "own_memory": "open('/proc/self/mem', 'r+b')",
    "socket_tcp": "socket.socket()",
    "socket_unix": "socket.socket(socket.AF_UNIX)",
    "socketpair": "socket.socketpair()",
    "fork": "os.fork()",
    "kill_parent": "os.kill(os.getppid(), 0)",
    "kill_self_group": "os.killpg(0, 0)",
    "become_root": "os.setuid(0)",
    "become_root_saved": "os.setresuid(0, 0, 0)",
    "raise_limits": "resource.prlimit(0, resource.RLIMIT_NOFILE, (1024, 1024))",
    "limit_parent": "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "priority": "os.nice(-5)",
    "execute_memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
    "memfd": "os.memfd_create('x')",
    "pipe": "os.pipe()",
    "dup": "os.dup(0)",
    "fcntl_owner": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "ioctl": "fcntl.ioctl(0, 0x5412, b'x')",
    "hostname": "socket.sethostname('x')",
}
KILLED = {
    "execve": "os.execv('/bin/true', ['true'])",
    "ptrace": "libc.ptrace(16, os.getppid(), 0, 0)",
    "unshare": "libc.unshare(0x10000000)",
    "mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "setns": "libc.setns(0, 0)",
    "read_parent": "libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0)",
}


@pytest.mark.parametrize("user", ["root", "ordinary"])
@pytest.mark.parametrize("attempt", [*REFUSED, *KILLED])
def test_escape_from_the_jailed_process(user: str, attempt: str) -> None:
    if user == "root" and os.geteuid() != 0:
        pytest.skip("needs to be root to drop root")
    code = JAILED.replace("{code}", REFUSED.get(attempt) or KILLED[attempt])
    code = code.replace("{ordinary}", str(user == "ordinary"))
    done = subprocess.run(
        python(f"exec({code!r})"), env={}, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False
    )
    if attempt in KILLED:
        assert done.returncode == -signal.SIGSYS, done
    else:
        assert done.stdout == b"refused", done


def test_escape_by_a_thread_that_was_there_before_the_lock() -> None:
    """The filter holds in every thread, not only in the one that asked for it."""
    code = """
import os, threading
from edge_runtime.functions.sandbox import jail
confinement = jail.confine()
go, done = threading.Event(), threading.Event()
def late():
    go.wait()
    try: open("/etc/passwd")
    except OSError: os.write(1, b"refused")
    done.set()
threading.Thread(target=late).start()
jail.lock(confinement)
go.set()
done.wait()
try: threading.Thread(target=print).start()
except RuntimeError: os.write(1, b" and no new one")
os._exit(0)
"""
    done = subprocess.run(python(f"exec({code!r})"), env={}, capture_output=True, timeout=60, check=True)
    assert done.stdout == b"refused and no new one"


def test_escape_is_held_by_seccomp_alone() -> None:
    """Without Landlock, without giving up root: what many a small board's kernel has to offer."""
    code = """
import os, socket
from edge_runtime.functions.sandbox import seccomp
import ctypes
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
seccomp.install(seccomp.program())
for attempt in (lambda: open("/etc/passwd"), socket.socket, os.fork, lambda: os.kill(os.getppid(), 0)):
    try: attempt()
    except PermissionError: os.write(1, b".")
os._exit(0)
"""
    done = subprocess.run(python(f"exec({code!r})"), env={}, capture_output=True, timeout=60, check=True)
    assert done.stdout == b"...."


def test_escape_attempts_meet_no_environment_and_no_open_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    code = "import os; os.write(1, repr((dict(os.environ), sorted(map(int, os.listdir('/proc/self/fd'))))).encode())"
    with secret.open() as held:
        os.set_inheritable(held.fileno(), True)
        done = subprocess.run(
            python(code), env={}, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=True
        )
    environment, files = eval(done.stdout)
    assert set(environment) <= {"LC_CTYPE"}, "Python itself sets the locale's encoding"
    assert len(files) <= 4, "the three standard ones, and the listing itself"


def test_escape_suite_runs_for_an_ordinary_user_too(guest: tuple[Path, Path], tmp_path: Path) -> None:
    """The whole platform, started without root: the same guest, the same jail."""
    if os.geteuid() != 0:
        pytest.skip("all the other tests have run as an ordinary user already")
    work = Path("/tmp") / f"edge-ordinary-{os.getpid()}"
    cached = work / "edge-runtime"
    cached.mkdir(parents=True, mode=0o700)
    try:
        for path in guest:
            shutil.copy(path, cached / path.name)
        for path in [work, cached, *cached.iterdir()]:
            os.chown(path, NOBODY, NOBODY)
        script = f"""
import asyncio, os
from pathlib import Path
from edge_runtime.clock import SystemClock
from edge_runtime.errors import DeployError
from edge_runtime.functions.platform import FunctionPlatform
async def main():
    platform = FunctionPlatform(Path({str(work)!r}) / "apps", SystemClock(), cache_folder=Path({str(cached)!r}))
    await platform.start()
    source = b"from edge import App\\napp = App('a')\\n@app.on('k')\\ndef f(e): pass\\n"
    await platform.check({{"a.py": source}})
    [executor] = platform.report().executors
    print(os.geteuid(), executor.jail.uid, executor.jail.seccomp, executor.jail.root_dropped)
    await platform.stop()
asyncio.run(main())
"""
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        start_itself = (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import edge_runtime'], check=True)"
        )
        probe = [*user, sys.executable, "-c", start_itself]
        if subprocess.run(probe, capture_output=True, env={}, cwd="/", check=False).returncode != 0:
            # This interpreter stands where only root can read. It may read there too, and is still not root.
            user += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        command = [*user, sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, env={}, cwd="/", timeout=100, check=False)
        assert done.stdout.decode().split() == ["65534", "65534", "True", "False"], done.stderr.decode()
    finally:
        shutil.rmtree(work)
