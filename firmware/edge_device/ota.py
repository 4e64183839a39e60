"""Updates over the air: fetches a version that the gateway offers into the other slot, and has it prove itself.

Loaded only on a board that was started by the boot loader (`firmware/loader/`). All that takes long is done in small
steps between the turns of the core, and can be cut off at any of them: what is there is found again by its hashes.
"""

import os
import struct
import sys
from binascii import a2b_base64, hexlify, unhexlify
from hashlib import sha256

import edge_boot
from micropython import const

from . import cbor
from .commands import ACKNOWLEDGED, FLYING, STATE, TO_SEND, describe

# What a report says the board is at.
IDLE = 0
FETCHING = 1
TRIAL = 2  # a new version runs, and is not confirmed
FAILED = 3  # an offer was not taken: nothing has changed
ROLLED_BACK = 4  # a new version was not confirmed: the old one runs

STARTS = 3
"""How many starts a new version has to be confirmed."""

_WHY = ("", "it was not confirmed in its starts", "it was not confirmed in its time", "it found itself wanting")
_BUSY = const(10)  # ms between two turns
_TURN = const(5)  # ms that one may take, and one step more
_WAITING = const(1000)
_NEVER = const(1 << 29)  # a board that sleeps is not to wake for nothing
_STEP = const(1024)  # bytes read or copied in one
_FLUSH = const(4096)  # a flash block: smaller pieces are written more than once
_AGAIN = const(10000)  # ms for an answer to an ask
_NEWS = const(30000)  # ms between two reports of how far it has come
_LARGEST = const(65536)  # bytes of a list of files: 256 of them have 40 KB
_PIECE = const(16384)  # bytes that the gateway gives at once, at most
_HOLD = const(60000)  # ms that a restart waits for readings to be sent
_ATTEMPTS = const(3)  # of a file whose hash is wrong
_PAYLOAD = const(1)
_NEWER = const(3)


class Refused(Exception):
    """The offer cannot be taken; the text says why."""


def attach(core):
    """The core's updater, made when it is first asked for: before the board connects, or it hears of no update."""
    if core.ota is None:
        core.ota = Ota(core)
    return core.ota


class Ota:
    """Takes offers, asks for what it lacks, tells the gateway how it goes."""

    def __init__(self, core):
        self.check = None
        """A function that says whether a version on trial is good; it is asked until it says so."""
        self.may_restart = None
        """A function that says whether the program can be stopped now, to start the new version."""
        self.delivered = False
        """Whether a reading was acknowledged since the start; the core says so."""
        self._core = core
        self._work = None  # the update under way: a generator of steps, which yields True where it has to wait
        self._offer = None
        self._ask = None
        self._asked = 0
        self._gave = False  # whether an ask was the last that was sent
        self._data = None
        self._since = None
        self._done = self._total = 0
        self._report = ["/ota/report", None, ACKNOWLEDGED, None]
        self._slot = edge_boot.SLOTS[edge_boot.running]
        self._other = edge_boot.SLOTS[1 - edge_boot.running]
        self._running = _release(self._slot)
        links = core.config.links
        if core.config.key != "-":
            self._key = _key_of(core.config.key)
        else:  # where there is no token, everybody knows what stands in its place
            self._key = sha256(links.secret).digest() if links and links.secret else None
        self._needs_event = False
        state = edge_boot.state()
        self._number = state[edge_boot.NUMBER]
        self._trial = state[edge_boot.MODE] == edge_boot.TRIAL and state[edge_boot.SLOT] == edge_boot.running
        self._until = state[edge_boot.HEALTH] * 1000
        if self._trial:
            self._needs_event = "event" in _line(self._slot + "/.release", "health")
            self._tell(TRIAL, self._running, "")
        elif state[edge_boot.WHY]:
            self._tell(ROLLED_BACK, _release(self._other), _why(state[edge_boot.WHY]))
        else:
            self._tell(IDLE, b"", "")
        self._timer = core.every(_WAITING if self._trial else _NEVER, self.tick)

    # What is said

    @property
    def settled(self):
        """Whether nothing is under way, and the gateway knows it: a board that sleeps may go to sleep."""
        told = self._report
        return not self._trial and not self._work and told[STATE] == ACKNOWLEDGED and told[_NEWER] is None

    def take(self):
        """[topic, payload, ...] of what is to be told next, now on its way; None for nothing."""
        lost = self._since != self._core._since
        self._since = self._core._since
        told = self._report
        if lost and told[STATE] != TO_SEND and told[_NEWER] is None:
            told[STATE] = TO_SEND  # each connection begins with where we are: the gateway may have something new
        if told[STATE] != FLYING and told[_NEWER] is not None:
            told[_PAYLOAD] = told[_NEWER]
            told[_NEWER] = None
            told[STATE] = TO_SEND
        if told[STATE] == TO_SEND:
            told[STATE] = FLYING
            return told
        ask = self._ask
        if ask and not self._asked:
            # Readings and pieces take turns, where a link has one packet on its way at a time.
            queue = self._core.queue
            self._gave = not self._gave
            if not self._gave and len(queue) > queue.flying:
                return None
            self._gave = True
            self._asked = self._core.hal.uptime() or 1
            return ["/ota/ask", ask, FLYING]
        return None

    def _tell(self, state, subject, detail, number=None):
        form = {1: state, 4: sys.platform, 5: self._number if number is None else number}
        if self._running:
            form[0] = self._running
        if subject:
            form[2] = subject
        if detail:
            form[3] = detail[:200]
        if self._total:
            form[6] = self._done
            form[7] = self._total
        out = bytearray()
        cbor.encode(form, out)
        self._report[_NEWER] = out
        self._told_at = self._core.hal.uptime()

    def message(self, topic, payload, packet):
        """Something has come; True for an offer, or data that was asked for, which has been dealt with."""
        cut = topic.rfind("ota/")
        if topic[:cut] not in ("", "/devices/" + self._core.config.device + "/"):  # the first on a serial link
            return False
        if topic[cut:] not in ("ota/offer", "ota/data"):
            return False
        try:
            form = cbor.decode(payload)
            if topic[cut:] == "ota/data":
                self._take_data(form[0], form[1], form[2])
            elif form:
                self._take_offer(form[0], form[1], form[2], form[3])
            else:
                self._stop()
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._core.log("update: what came cannot be read: " + describe(error))
        if packet:
            self._core.session.acknowledge(packet)
        return True

    def _take_data(self, digest, at, data):
        if self._ask and self._want == (digest, at) and isinstance(data, bytes):
            self._data = data
            self._ask = None
            self.tick()

    def _take_offer(self, release, size, number, proofs):
        # A larger number would lose its front in the proof, and an old offer be new again.
        if (
            not isinstance(release, bytes)
            or not isinstance(size, int)
            or not isinstance(number, int)
            or number >> 32
            or not all(isinstance(proof, bytes) for proof in proofs)
        ):
            raise ValueError("that is no offer")
        offer = (release, size, number)
        if self._trial or offer == self._offer:
            return
        if release == self._running:
            self._tell(IDLE, b"", "")
            return
        if number <= self._number:
            self._tell(FAILED, release, "the offer is not newer than one that was taken", number)
            return
        self._stop()
        self._offer = offer
        self._work = self._update(release, size, number, proofs)
        self._wake(_BUSY)

    def _stop(self):
        """Nothing is offered any more; what was fetched stays, for another time."""
        if self._work:
            self._work.close()
            self._end()
            self._tell(IDLE, b"", "")

    def _end(self):
        self._work = self._ask = self._data = self._offer = None
        self._done = self._total = 0
        self._wake(_NEVER)

    def _wake(self, period):
        """Be called with the next turn, and from then on every `period` ms."""
        self._timer.period = period
        self._timer.due = 0

    # What is done

    def tick(self):
        """Take some steps of what is under way."""
        if self._trial:
            self._prove()
        work = self._work
        if not work:
            return
        uptime = self._core.hal.uptime
        until = uptime() + _TURN
        try:
            while not next(work) and uptime() < until:
                pass
        except StopIteration:
            self._end()
        except Exception as error:
            text = str(error) if isinstance(error, Refused) else describe(error)
            self._core.log("update: " + text)
            release, _, number = self._offer
            self._end()
            self._tell(FAILED, release, text, number)

    def _prove(self):
        """On trial: confirm this version, or give it up."""
        good = self._report[STATE] == ACKNOWLEDGED and self._report[_NEWER] is None
        if good and (self.delivered or not self._needs_event) and self._agrees(self.check):
            try:
                edge_boot.confirm()
                self._trial = False
                self._wake(_NEVER)
                self._tell(IDLE, b"", "")
                return
            except OSError as error:  # the flash takes nothing: it is tried again, as long as there is time
                self._core.report("update", error)
        if self._core.hal.uptime() > self._until:
            self._core.log("update: this version could not be confirmed in its time")
            self._kept()
            try:
                edge_boot.back(edge_boot.LATE)
            except OSError:  # the boot loader goes back where it cannot count a start
                pass
            edge_boot.reset()

    def _agrees(self, function):
        """What the program says, if it says anything; one that fails does not agree."""
        try:
            return not function or function()
        except Exception as error:
            self._core.report("update", error)
            return False

    def _update(self, release, size, number, proofs):
        core = self._core
        if self._key is None:
            raise Refused("this board has no token, with which an offer is signed")
        text = b"edge ota\0" + struct.pack(">I", number) + release + core.config.device.encode()
        good = _hmac(self._key, text)
        if not any(_same(good, proof) for proof in proofs):
            raise Refused("the offer is not signed with this board's key")
        if not 0 < size <= _LARGEST:  # the size alone is not signed
            raise Refused("the offer's list of files is too large")
        self._tell(FETCHING, release, "", number)
        _folder(self._other)
        manifest = self._other + "/.new"
        if (yield from self._digest(manifest)) != release:
            yield from self._fetch(release, size, manifest)
        lacking = yield from self._plan(manifest)
        with open(manifest) as lines:
            for line in lines:
                digest, size, path = _file(line)
                if digest and path in lacking:
                    yield from self._provide(digest, size, path)
                    self._done += size
                    self._news(release, number)
        with open(manifest) as lines:
            for line in lines:
                digest, size, path = _file(line)
                if digest and (yield from self._digest(self._other + "/" + path, size)) != digest:
                    raise Refused("the flash does not keep " + path)  # of two names that it takes for one, say
        health = _line(manifest, "health").split(" ")[0]
        for name in os.listdir(self._other):
            if name.startswith(".p"):
                os.remove(self._other + "/" + name)
        _replace(manifest, self._other + "/.release")
        self._tell(FETCHING, release, "waits for its restart", number)
        self._timer.period = _WAITING
        since = None
        while True:
            if self._agrees(self.may_restart):  # to have readings kept may mean a write to the flash: only then
                now = core.hal.uptime()
                since = now if since is None else since
                if self._kept() or now - since > _HOLD:
                    break
            yield True
        edge_boot.switch(1 - edge_boot.running, number, STARTS, int(health or 300))
        core.log("update: the new version is started")
        edge_boot.reset()

    def _kept(self):
        """Whether a restart loses no reading: they are on flash, where there is a spool, or acknowledged."""
        queue = self._core.queue
        return queue.settle() if hasattr(queue, "settle") else not len(queue)

    def _news(self, release, number):
        if self._core.hal.uptime() - self._told_at > _NEWS and self._report[STATE] == ACKNOWLEDGED:
            self._tell(FETCHING, release, "", number)

    def _plan(self, manifest):
        """The paths that the other slot lacks; what it has besides is removed, unless there is no room for the rest."""
        platforms = _line(manifest, "boards").split(" ")
        if platforms[0] and sys.platform not in platforms:
            raise Refused("it is for " + ", ".join(platforms) + "; this is " + sys.platform)
        least = _line(manifest, "micropython")
        have = sys.implementation.version
        if least and tuple(int(n) for n in least.split(".")) > tuple(have[: len(least.split("."))]):
            raise Refused("it needs MicroPython " + least + "; this is " + ".".join(str(n) for n in have[:3]))
        info = os.statvfs("/")
        block = info[0] or 512
        kept = {".new"}
        lacking = set()
        need = 4 * block  # folders, and what the file system keeps of files
        with open(manifest) as lines:
            for line in lines:
                digest, size, path = _file(line)
                if not digest:
                    continue
                self._total += size
                if (yield from self._digest(self._other + "/" + path, size)) == digest:
                    kept.add(path)
                    self._done += size
                else:
                    lacking.add(path)
                    kept.add(".p" + str(hexlify(digest[:8]), "utf-8"))
                    need += (size + block - 1) // block * block
        free = info[0] * info[3]
        doomed = []
        for path in _walk(self._other):
            if path not in kept:
                doomed.append(path)
            if path not in kept or path.startswith(".p"):
                free += os.stat(self._other + "/" + path)[6] // block * block
        if free < need:
            text = "the flash is short: it needs " + str(need // 1024) + " KB, and " + str(free // 1024) + " are free"
            raise Refused(text)
        for path in doomed:
            os.remove(self._other + "/" + path)
            yield
        _prune(self._other)
        return lacking

    def _provide(self, digest, size, path):
        """Have a file in the other slot: from this one where it is the same, else from the gateway."""
        part = self._part(digest)
        target = self._other + "/" + path
        at = path.find("/")
        while at >= 0:
            _folder(self._other + "/" + path[:at])
            at = path.find("/", at + 1)
        here = self._slot + "/" + path
        if (yield from self._digest(here, size)) == digest:
            with open(here, "rb") as source, open(part, "wb") as copy:
                data = source.read(_STEP)
                while data:
                    copy.write(data)
                    yield
                    data = source.read(_STEP)
            if (yield from self._digest(part)) != digest:
                raise Refused("the flash does not keep what is written to it")
            _replace(part, target)
        else:
            yield from self._fetch(digest, size, target)

    def _part(self, digest):
        return self._other + "/.p" + str(hexlify(digest[:8]), "utf-8")

    def _fetch(self, digest, size, target):
        part = self._part(digest)
        for _ in range(_ATTEMPTS):
            at = _size(part)
            if at > size:
                os.remove(part)
                at = 0
            with open(part, "ab") as file:
                flushed = at
                while at < size:
                    data = yield from self._chunk(
                        digest, at, min(self._core.config.options["packet"], size - at, _PIECE)
                    )
                    file.write(data)
                    at += len(data)
                    if at - flushed >= _FLUSH:
                        file.flush()
                        flushed = at
            if (yield from self._digest(part)) == digest:
                _replace(part, target)
                return
            os.remove(part)
        raise Refused("what comes for " + target[len(self._other) + 1 :] + " is damaged")

    def _chunk(self, digest, at, number):
        ask = bytearray()
        cbor.encode({0: digest, 1: at, 2: number}, ask)
        self._want = (digest, at)
        self._data = None
        self._asked = 0
        self._ask = ask
        while self._data is None:
            self._timer.period = _WAITING  # whatever comes calls us
            yield True
            if self._asked and self._data is None and self._core.hal.uptime() - self._asked > _AGAIN:
                self._asked = 0
        self._wake(_BUSY)
        data = self._data
        self._data = None
        if not 0 < len(data) <= number:
            raise Refused("the gateway does not have all of it")
        return data

    def _digest(self, path, size=None):
        """SHA-256 of a file; None where there is none, or one of another size."""
        try:
            if size is not None and _size(path) != size:
                return None
            with open(path, "rb") as file:
                found = sha256()
                while True:
                    data = file.read(_STEP)
                    if not data:
                        return found.digest()
                    found.update(data)
                    yield
        except OSError:
            return None


def _file(line):
    """(digest, size, path) of a manifest's line; digest is None where it is about something else."""
    if not line.startswith("file "):
        return None, 0, ""
    _, digest, size, path = line.rstrip("\n").split(" ", 3)
    if path.startswith(("/", ".")) or "/." in path:
        raise Refused("'" + path + "' is no path in a slot")
    return unhexlify(digest), int(size), path


def _line(path, word):
    """What a manifest says after a word; empty where it does not have it."""
    try:
        with open(path) as lines:
            for line in lines:
                if line.startswith(word + " "):
                    return line[len(word) + 1 :].rstrip("\n")
    except OSError:
        pass
    return ""


def _release(slot):
    """The id of the release in a slot; empty for one that came with the board."""
    try:
        with open(slot + "/.release", "rb") as file:
            found = sha256()
            data = file.read(_STEP)
            while data:
                found.update(data)
                data = file.read(_STEP)
            return found.digest()
    except OSError:
        return b""


def _why(code):
    text = _WHY[code] if code < len(_WHY) else "it gave no reason"
    try:
        with open(edge_boot.REPORT) as file:
            return text + ": " + file.read()
    except OSError:
        return text


def _size(path):
    try:
        return os.stat(path)[6]
    except OSError:
        return 0


def _folder(path):
    try:
        os.mkdir(path)
    except OSError:  # there is one
        pass


def _replace(source, target):
    try:
        os.remove(target)  # on FAT nothing takes the place of a file
    except OSError:
        pass
    try:
        os.rename(source, target)
    except OSError:
        os.rename(source[1:], target[1:])  # the unix port mixes up two absolute paths


def _walk(root, under=""):
    """The files below `root`, as paths from there."""
    for entry in os.ilistdir(root + "/" + under if under else root):
        name = under + "/" + entry[0] if under else entry[0]
        if entry[1] & 0x4000:
            yield from _walk(root, name)
        else:
            yield name


def _prune(root):
    """Remove the folders below `root` that are empty: one that is left would be imported in place of a file."""
    for entry in list(os.ilistdir(root)):
        if entry[1] & 0x4000:
            path = root + "/" + entry[0]
            _prune(path)
            try:
                os.rmdir(path)
            except OSError:  # it is not empty
                pass


def _key_of(text):
    text = text.replace("-", "+").replace("_", "/")
    try:
        return sha256(a2b_base64(text + "==="[: -len(text) % 4])).digest()
    except ValueError:
        return sha256(text.encode()).digest()


def _hmac(key, text):
    """HMAC-SHA256 (RFC 2104) with a key of 32 bytes."""
    outer = bytes(b ^ 0x5C for b in key) + b"\x5c" * 32
    inner = bytes(b ^ 0x36 for b in key) + b"\x36" * 32
    return sha256(outer + sha256(inner + text).digest()).digest()


def _same(one, other):
    """Whether two digests are the same, in a time that does not depend on where they differ."""
    if len(one) != len(other):
        return False
    difference = 0
    for i in range(len(one)):
        difference |= one[i] ^ other[i]
    return not difference
