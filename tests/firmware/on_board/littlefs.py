"""The spool on a real littlefs, over a flash in memory that counts its wear and whose power can be cut."""

import gc
import os
import time

import vfs
from edge_device import cbor, segments, spool


class Cut(Exception):
    """The power goes: nothing that handles errors of the flash handles this."""


class Blocks:
    """64 blocks of 4 KiB, written in pieces of 16 bytes or more, erased as a whole."""

    def __init__(self, data=None):
        self.data = data or bytearray(b"\xff" * 64 * 4096)
        self.written = 0
        self.erased = 0
        self.left = None

    def _spend(self):
        if self.left is not None:
            if not self.left:
                raise Cut
            self.left -= 1

    def readblocks(self, block, buffer, offset=0):
        at = block * 4096 + offset
        buffer[:] = self.data[at : at + len(buffer)]

    def writeblocks(self, block, buffer, offset=None):
        self._spend()
        at = block * 4096 + (offset or 0)
        self.data[at : at + len(buffer)] = buffer
        self.written += len(buffer)

    def ioctl(self, op, arg):
        if op == 4:
            return 64
        if op == 5:
            return 4096
        if op == 6:
            self._spend()
            self.data[arg * 4096 : (arg + 1) * 4096] = b"\xff" * 4096
            self.erased += 1
            return 0
        return 0


class Core:
    """As much of a core as a spool sees."""

    def __init__(self, boot):
        self.config = self
        self.options = {"queue": 64, "queue_bytes": 8192}
        self.boot = boot
        self.hal = self
        self.now = 0

    def uptime(self):
        return self.now

    def epoch(self):
        return 1795000000000000

    def log(self, text):
        print(text)

    def step(self, now):
        return 60000


def mount(blocks, boot, **options):
    """A board that starts; returns its core, whose queue is the spool."""
    if "flash" in os.listdir("/"):
        vfs.umount("/flash")
    vfs.mount(vfs.VfsLfs2(blocks, progsize=16, readsize=16, lookahead=32), "/flash")
    core = Core(boot)
    spool.attach(core, dict(options, path="/flash/spool"))
    return core


def reading(n):
    out = bytearray()
    cbor.encode({"temperature": 20 + n % 100 / 16, "humidity": 40.5, "fan": False}, out)
    return (n, "climate", n * 5000, bytes(out))


def drain(core):
    """All that is there, acknowledged: (boot, sequence) of each."""
    found = []
    while True:
        batch = core.queue.take(16, 512)
        if not batch:
            return found
        boot = core.queue.origin[0] if core.queue.origin else core.boot
        found += [(boot, each[0]) for each in batch]
        core.queue.acknowledge(batch[0][0], len(batch), boot)


def wear(group, number=1200):
    """Wear of readings that are stored `group` at a time, and then sent; each figure per reading."""
    blocks = Blocks()
    vfs.VfsLfs2.mkfs(blocks, progsize=16, readsize=16, lookahead=32)
    core = mount(blocks, b"bootboot", bytes=131072, after=60)
    ours = 0
    append = core.queue._store._files.append

    def counted(segment, data):
        nonlocal ours
        ours += len(data)
        append(segment, data)

    core.queue._store._files.append = counted
    blocks.written = blocks.erased = 0
    gc.collect()
    began = time.ticks_us()
    for n in range(number):
        core.queue.push(reading(n))
        if n % group == group - 1:
            core.queue.store()
    core.queue.store()
    stored = time.ticks_us()
    assert len(drain(core)) == number
    sent = time.ticks_us()
    figures = (ours, blocks.written, blocks.erased * 4096, blocks.erased)
    print("wear", group, *[round(each / number, 3) for each in figures], end=" ")
    print(*[round(number * 1e6 / time.ticks_diff(b, a)) for a, b in ((began, stored), (stored, sent))])


def cuts(first, step):
    """Cut the power at every `step`-th operation of the flash; prints how many there were."""
    number = first
    while True:
        blocks = Blocks()
        vfs.VfsLfs2.mkfs(blocks, progsize=16, readsize=16, lookahead=32)
        core = mount(blocks, b"boot-one", bytes=2048, segment=512, after=0, priority={})
        blocks.left = number
        stored = acknowledged = 0
        whole = False
        try:
            for n in range(60):
                core.queue.push(reading(n))
                stored = n + 1
                if n % 10 == 9:
                    batch = core.queue.take(4, 512)
                    acknowledged = batch[-1][0] + 1  # from here on it may be gone
                    core.queue.acknowledge(batch[0][0], len(batch), core.boot)
            whole = True
        except Cut:
            pass
        # A copy: what a file that was left open writes when it is collected, no board would write.
        core = mount(Blocks(bytearray(blocks.data)), b"boot-two", bytes=2048, segment=512, after=0, priority={})
        core.queue.push(reading(0))
        found = drain(core)
        lost = core.queue.lost
        assert found[-1] == (b"boot-two", 0), found
        old = [seq for boot, seq in found[:-1]]
        assert old == list(range(old[0], old[0] + len(old))) if old else True, old
        assert not old or old[-1] in (stored - 1, stored), (number, old, stored)
        if not whole:
            missing = (old[0] if old else stored) - acknowledged
            assert missing <= lost, (number, missing, lost)
        assert old or stored == acknowledged or lost, number
        if whole:
            print("cuts", (number - first) // step)
            return
        number += step
        gc.collect()


assert segments.HEAD == 7
