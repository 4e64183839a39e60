"""Updates on a real littlefs, over a flash in memory whose power is cut: of what is under way then, half is done."""

import gc
import os
from binascii import hexlify
from hashlib import sha256

import edge_boot
import vfs
from edge_device import cbor, ota

KEY = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I"
BLOCKS = 48


class Cut(BaseException):
    """The power goes: no handler for errors is to catch this."""


class Blocks:
    """Blocks of 4 KiB."""

    def __init__(self, data=None):
        self.data = data or bytearray(b"\xff" * BLOCKS * 4096)
        self.left = None
        self.spent = 0

    def _put(self, at, data):
        if self.left is not None:
            if self.left <= 0:
                if self.left == 0:
                    self.data[at : at + len(data) // 2] = data[: len(data) // 2]
                    self.left = -1
                raise Cut
            self.left -= 1
        self.spent += 1
        self.data[at : at + len(data)] = data

    def readblocks(self, block, buffer, offset=0):
        at = block * 4096 + offset
        buffer[:] = self.data[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=None):
        self._put(block * 4096 + (offset or 0), buffer)

    def ioctl(self, op, arg):
        if op == 4:
            return BLOCKS
        if op == 5:
            return 4096
        if op == 6:
            self._put(arg * 4096, b"\xff" * 4096)
        return 0


class Version:
    """A release."""

    def __init__(self, files):
        self.files = files
        lines = ["edge-release 1", "name greenhouse", "version 1", "health 300 report"]
        for path in sorted(files):
            digest = str(hexlify(sha256(files[path]).digest()), "utf-8")
            lines.append("file " + digest + " " + str(len(files[path])) + " " + path)
        self.manifest = ("\n".join(lines) + "\n").encode()
        self.id = sha256(self.manifest).digest()
        self.content = {sha256(data).digest(): data for data in files.values()}
        self.content[self.id] = self.manifest


KEPT = b"# the same in both\n" * 300
OLD = Version({"main.py": b"print(1)\n" * 50, "lib/kept.py": KEPT, "lib/fan/__init__.py": b"# not in 2\n"})
NEW = Version(
    {"main.py": b"print(2)\n" * 700, "lib/kept.py": KEPT, "lib/fan.py": b"# only in 2\n", "lib/x/y.py": b"1\n"}
)


class Core:
    """As much of a core as updates see; and the gateway, which offers NEW."""

    def __init__(self):
        self.config = self.hal = self.session = self
        self.device = "b1"
        self.key = KEY
        self.links = None
        self.options = {"packet": 512}
        self.queue = self
        self.flying = 0
        self.ota = None
        self._since = 1
        self.now = 0
        self.period = 0

    def __len__(self):
        return 0

    def uptime(self):
        return self.now

    def every(self, period, function):
        self.period = period
        return self

    def log(self, text):
        print(text)

    def report(self, where, error):
        print(where, error)

    def run(self):
        """Be connected until the board runs NEW for good; SystemExit where it starts anew."""
        updates = ota.Ota(self)
        for _ in range(20000):
            self.now += self.period
            updates.tick()
            told = updates.take()
            if told is None:
                if updates._running == NEW.id and not updates._trial:
                    return
                continue
            form = cbor.decode(told[1])
            told[2] = 2
            out = bytearray()
            if told[0] == "/ota/ask":
                cbor.encode({0: form[0], 1: form[1], 2: NEW.content[form[0]][form[1] : form[1] + form[2]]}, out)
                updates.message("ota/data", bytes(out), 0)
            elif form.get(0) != NEW.id:
                text = b"edge ota\0\0\0\0\7" + NEW.id + b"b1"
                cbor.encode({0: NEW.id, 1: len(NEW.manifest), 2: 7, 3: [ota._hmac(ota._key_of(KEY), text)]}, out)
                updates.message("ota/offer", bytes(out), 0)
        raise AssertionError("nothing came of it")


def mount(blocks):
    """A board that is switched on."""
    vfs.umount("/")
    vfs.mount(vfs.VfsLfs2(blocks, progsize=16, readsize=16, lookahead=32), "/")


def files(slot):
    found = {}
    for path in ota._walk(slot):
        if not path.startswith("."):
            with open(slot + "/" + path, "rb") as file:
                found[path] = file.read()
    return found


def update():
    """Start the board until it is through; what it starts is a whole version each time."""
    for _ in range(20):
        slot = edge_boot.SLOTS[edge_boot.choose()]
        assert files(slot) in (OLD.files, NEW.files), slot
        try:
            Core().run()
            return
        except SystemExit:
            pass
    raise AssertionError("twenty starts did not do")


def fresh():
    """A board with OLD in slot a, and something else, half of it, in slot b."""
    blocks = Blocks()
    vfs.VfsLfs2.mkfs(blocks, progsize=16, readsize=16, lookahead=32)
    mount(blocks)
    for folder in ("/a", "/a/lib", "/a/lib/fan", "/b", "/b/lib", "/b/lib/fan"):
        os.mkdir(folder)
    for path in OLD.files:
        with open("/a/" + path, "wb") as file:
            file.write(OLD.files[path])
    with open("/b/lib/fan/old.py", "wb") as file:
        file.write(b"# from long ago\n")
    return blocks


def cuts(first, step):
    """Cut the power at every `step`-th operation of the flash; prints how many there were."""
    original = bytes(fresh().data)
    number = first
    while True:
        blocks = Blocks(bytearray(original))
        mount(blocks)
        blocks.left = number
        whole = False
        try:
            update()
            whole = True
        except Cut:
            pass
        # A copy: what a file that was left open writes when it is collected, no board would write.
        mount(Blocks(bytearray(blocks.data)))
        update()
        assert files(edge_boot.SLOTS[edge_boot.running]) == NEW.files, number
        assert edge_boot.state()[edge_boot.MODE] == edge_boot.CONFIRMED
        assert "fan" not in os.listdir("/b/lib"), number
        if whole:
            print("cuts", (number - first) // step)
            return
        number += step
        gc.collect()
