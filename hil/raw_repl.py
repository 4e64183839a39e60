"""MicroPython's unix port with the prompt of a board: Ctrl-A to E, raw paste, soft reset; and flash as a board has it.

The port has no raw REPL, so this is one, in MicroPython itself: what `mpremote` sends is run by the real interpreter,
and files go into a real littlefs of limited size, which lies in a file of this machine.
"""

from __future__ import annotations

from pathlib import Path

SOFT_RAW, SOFT, HARD = 10, 11, 12
"""Exit status that says how to start again: soft reset at the raw prompt, soft reset, `machine.reset()`."""
BLOCK = 4096

_SCRIPT = r"""
import micropython, os, sys
MODE = @MODE@


class Disk:
    def __init__(self, path):
        self.file = open(path, "r+b")
        self.blocks = self.file.seek(0, 2) // 4096

    def readblocks(self, number, buf, offset=0):
        self.file.seek(number * 4096 + offset)
        self.file.readinto(buf)

    def writeblocks(self, number, buf, offset=0):
        self.file.seek(number * 4096 + offset)
        self.file.write(buf)
        self.file.flush()

    def ioctl(self, op, arg):
        return self.blocks if op == 4 else 4096 if op == 5 else 0


class Machine:
    @staticmethod
    def reset():
        sys.exit(@HARD@)


class Micropython:  # the module, with a Ctrl-C of which the terminal outside knows
    const = staticmethod(micropython.const)
    interrupts = open(@DISK@ + ".interrupts", "w")

    @classmethod
    def kbd_intr(cls, number):
        cls.interrupts.seek(0)
        cls.interrupts.write("%3d" % number)
        cls.interrupts.flush()


Micropython.kbd_intr(3)
sys.modules["micropython"] = Micropython
disk = Disk(@DISK@)
os.umount("/")
try:
    files = os.VfsLfs2(disk)
except OSError:
    os.VfsLfs2.mkfs(disk)
    files = os.VfsLfs2(disk)
os.mount(files, "/")
os.chdir("/")
sys.path[:] = ["", ".frozen", "/lib"]
sys.modules["machine"] = Machine
take = sys.stdin.buffer.read
give = sys.stdout.buffer.write
BANNER = sys.version.split("; ")[-1] + "; " + sys.implementation._machine + "\r\n"
names = {"__name__": "__main__"}


def read():
    byte = take(1)
    if not byte:
        sys.exit(0)
    return byte[0]


def run(name):
    try:
        with open(name) as file:
            text = file.read()
    except OSError:
        return
    try:
        exec(text, names)
    except Exception as error:
        sys.print_exception(error)
    except KeyboardInterrupt as error:
        sys.print_exception(error)


def execute(code):
    try:
        exec(code, names)
        give(b"\x04")
    except SystemExit:
        raise
    except BaseException as error:
        give(b"\x04")
        sys.print_exception(error)
    give(b"\x04")


def paste():
    if read() != 65 or read() != 1:
        return None
    give(b"R\x01\x80\x00\x01")
    code = bytearray()
    while True:
        byte = read()
        if byte == 4:
            give(b"\x04")
            return code
        code.append(byte)
        if len(code) % 128 == 0:
            give(b"\x01")


def raw():
    give(b"raw REPL; CTRL-B to exit\r\n")
    while True:
        give(b">")
        code = bytearray()
        pasted = False
        while True:
            byte = read()
            if byte == 1:
                give(b"raw REPL; CTRL-B to exit\r\n>")
                code = bytearray()
            elif byte == 2:
                return
            elif byte == 5 and not code:
                code = paste()
                pasted = True
                break
            elif byte == 4:
                break
            else:
                code.append(byte)
        if not pasted:
            give(b"OK")
            if not code:
                give(b"\r\nMPY: soft reboot\r\n")
                sys.exit(@SOFT_RAW@)
        execute(code)


def friendly():
    give(b"\r\n" + BANNER + ">>> ")
    line = ""
    while True:
        byte = read()
        if byte == 1:
            return
        if byte == 4:
            give(b"\r\nMPY: soft reboot\r\n")
            sys.exit(@SOFT@)
        if byte == 2:
            give(b"\r\n" + BANNER + ">>> ")
            line = ""
        elif byte == 13:
            give(b"\r\n")
            try:
                exec(line, names)
            except Exception as error:
                sys.print_exception(error)
            line = ""
            give(b">>> ")
        else:
            give(bytes([byte]))
            line += chr(byte)


run("boot.py")
is_raw = MODE == "raw"
if not is_raw:
    run("main.py")
while True:
    try:
        if is_raw:
            raw()
        else:
            friendly()
        is_raw = not is_raw
    except KeyboardInterrupt:
        pass
"""


def script(disk: Path, *, raw: bool) -> str:
    """What the unix port is to run, with `disk` as its flash."""
    values = {"MODE": "raw" if raw else "boot", "DISK": str(disk)}
    text = _SCRIPT
    for name, value in values.items():
        text = text.replace(f"@{name}@", repr(value))
    for name, number in (("SOFT_RAW", SOFT_RAW), ("SOFT", SOFT), ("HARD", HARD)):
        text = text.replace(f"@{name}@", str(number))
    return text
