"""The board's side of the wire as one synchronous machine: readings in, packets out; no socket, no clock, no waiting.

Whoever drives it (`shell.py`, a port's own loop, a test) does four things: call `step` when it asks to be called; keep
a connection while `wants_link` is true, and say `link_up` or `link_down`; hand what arrives to `receive`; send what
stands in `out`. All times are milliseconds of uptime that never go back.
"""

from micropython import const

from . import cbor, wire
from .commands import ACKNOWLEDGED, REPLY, SENT_BEFORE, STATE, Commands, describe
from .queue import KIND, LOST, SEQ, Queue

ERROR = "edge.error"
"""Kind of the event that says what failed on the board: {"in": name, "error": text}."""

_FIRST_BACKOFF = const(500)
# Some boards' clocks tick in whole seconds; only a difference beyond that means that the clock was set.
_CLOCK_SET = const(2000000)
_IDLE = const(60000)
_OPEN = const(2)  # a session's state, of either kind
# More than this is not made ready at once: in a heap of pieces, one packet's room is found, four packets' is not.
_READY = const(256)
_LARGEST = const(200000)  # the gateway ends a connection over a packet of more than 256 KiB
_STABLE = const(60000)


class Timer:
    """A function to be run every `period` ms."""

    def __init__(self, period, function):
        self.period = period
        self.function = function
        self.due = 0


def make_session(config, kind, random):
    """The machine for a kind of link."""
    # Imported only here: the file of a link that is not used may be left out.
    options = config.options
    common = (config.device, config.key.encode(), options["keepalive"], options["patience"])
    largest = options["packet"] + 1024
    if kind == "serial":
        from .serial import Session

        return Session(*common, largest, options["ring"], random)
    if kind == "coap":
        from .coap import Session

        return Session(*common, largest, random)
    from .session import Session

    return Session(*common, options["window"], largest)


class Core:
    """Everything a board does for the gateway.

    `hal` has `uptime()` in ms, `time()` in microseconds since 1970 or None, and `random(n)` bytes. `observer`, where
    set, is told `on_published(boot, seq, again)`, `on_acknowledged(boot, seq)` and
    `on_command(id, name, cause, repeat)` (cause: (boot, seq) or None). `log` takes a line of text.
    """

    def __init__(self, config, hal, log=print):
        options = config.options
        self.config = config
        self.hal = hal
        self.log = log
        self.observer = None
        self.boot = hal.random(8)
        self.commands = Commands()
        self.queue = Queue(options["queue"], options["queue_bytes"])
        self.link = config.link
        """The link in use, or the next to be tried."""
        self.session = make_session(config, self.link.kind, hal.random)
        self.twin = None
        self.ota = None
        self.wants_link = False
        self._base = "/devices/" + config.device
        self._seq = 0
        self._unsent = 0  # the lowest sequence that has never been sent: below it, a packet is a repeat
        self._epoch = None
        self._timers = []
        self._failing = set()
        self._attempts = 0
        self._retry_at = 0
        self._last_failure = ""
        self._since = None  # when the connection was made
        self.proven = False  # whether anything was acknowledged over it

    @property
    def out(self):
        """What is to be sent, as a bytearray; take away from its front what has gone out (`sent`)."""
        return self.session.out

    def sent(self, number):
        """The first `number` bytes of `out` have gone out."""
        self.session.out[:] = self.session.out[number:]

    @property
    def online(self):
        """Whether the gateway has accepted us on this connection."""
        return self.session.state == _OPEN

    def every(self, period, function):
        """Run `function` every `period` ms from `step`; what it misses while something else runs is left out.

        Returns the timer, whose `period` may be changed.
        """
        timer = Timer(period, function)
        self._timers.append(timer)
        return timer

    def emit(self, kind, data):
        """Queue a reading; returns its sequence. Raises ValueError or TypeError for what the wire does not carry."""
        wire.check_name(kind, "the kind")
        out = bytearray()
        cbor.encode(data, out)
        if len(out) > min(self.config.options["queue_bytes"], _LARGEST):
            raise ValueError("a reading of " + str(len(out)) + " bytes is larger than the queue or a packet")
        return self._push(kind, bytes(out))

    def _push(self, kind, data):
        seq = self._seq
        self._seq += 1
        self.queue.push((seq, kind, self.hal.uptime(), data))
        return seq

    def report(self, where, error):
        """Say, on the log and as an event, that the code called `where` failed; once until it works again."""
        if where not in self._failing:
            self._failing.add(where)
            text = describe(error) if isinstance(error, Exception) else error
            self.log(where + ": " + text)
            try:
                self.emit(ERROR, {"in": where, "error": text})
            except ValueError:  # a queue so small holds no such text
                pass

    def works(self, where):
        """The code called `where` works (again)."""
        self._failing.discard(where)

    def link_up(self, now):
        """A connection is there."""
        self._since = now
        self.proven = False
        if self.config.links:
            self.config.links.begin(now)
        self.session.twin = self.twin is not None
        self.session.ota = self.ota is not None
        self.session.begin(now)

    def link_down(self, now, why="the connection was closed"):
        """The connection is gone, or could not be made."""
        self.session.close()
        self._give_up(now, why)

    def _give_up(self, now, why):
        self.queue.rewind()
        self.commands.rewind()
        self.wants_link = False
        if self._since is not None and now - self._since > _STABLE:
            self._attempts = 0
            self.proven = True
        self._since = None
        most = self.config.options["backoff"] * 1000
        delay = most if self.session.refused else min(most, _FIRST_BACKOFF << min(self._attempts, 16))
        self._attempts += 1
        if self.config.links:
            delay = self.config.links.close(self, delay)
        self.proven = False
        # Between half and all of it: boards that lost the gateway together do not come back together.
        delay = delay // 2 + (delay - delay // 2) * int.from_bytes(self.hal.random(2), "big") // 65535
        self._retry_at = now + delay
        if why != self._last_failure:
            self._last_failure = why
            self.log("offline: " + why)

    def _useful(self):
        # A connection that is accepted may still be of no use; only an acknowledgement ends the longer pauses.
        if not self.proven:
            self.proven = True
            self._attempts = 0
            self._last_failure = ""
            if self.config.links:
                self.config.links.works()
            self.log("online over " + self.link.kind)

    def receive(self, data, now):
        """Bytes have arrived."""
        self.session.receive(data, now, self._message, self._acknowledged)
        for _ in range(self.session.oversized()):
            self.report("command", "a packet from the gateway was too large for this board")
        if self.session.failure:
            self._fail(now)

    def _fail(self, now):
        why = self.session.failure
        self.session.failure = ""
        self._give_up(now, why)

    def step(self, now):
        """Do what is due at uptime `now`; returns the ms after which it has to be called again, at the latest."""
        wait = _IDLE
        for timer in self._timers:
            if now >= timer.due:
                timer.due = (now // timer.period + 1) * timer.period
                timer.function()
            wait = min(wait, timer.due - now)
        session = self.session
        session.tick(now)
        if session.failure:
            self._fail(now)
        if not self.wants_link:
            if now < self._retry_at:
                return max(0, min(wait, self._retry_at - now))
            self.wants_link = True
        if self.config.links and self.config.links.step(self, now):
            return 0
        if session.state == _OPEN and not self._publish(now):
            return 0
        return max(0, min(wait, session.wait(now)))

    def _publish(self, now):
        """Make packets of what waits; False when there may be more once `out` has been sent."""
        session = self.session
        options = self.config.options
        while session.has_room():
            if len(session.out) > _READY:
                return False
            reply = self.commands.take()
            if reply:
                session.publish(now, self._base + "/replies", reply[REPLY], reply[SENT_BEFORE], reply)
                reply[SENT_BEFORE] = True
                continue
            told = (self.twin and self.twin.take()) or (self.ota and self.ota.take())
            if told:
                session.publish(now, self._base + told[0], told[1], False, told)
                continue
            batch = self.queue.take(options["batch"], options["packet"])
            if not batch:
                break
            first = batch[0][SEQ]
            end = first + len(batch)
            boot, epoch, sent = self.queue.origin or (self.boot, self.epoch(), self.hal.uptime())
            payload = wire.encode_events(boot, batch, epoch, None if epoch is not None else sent)
            again = boot != self.boot or first < self._unsent
            topic = self._base + ("/events" if len(batch) > 1 else "/events/" + batch[0][KIND])
            session.publish(now, topic, payload, again, (boot, first, len(batch)))
            if self.observer:
                for seq in range(first, end):
                    self.observer.on_published(boot, seq, boot != self.boot or seq < self._unsent)
            if boot == self.boot:
                self._unsent = max(self._unsent, end)
        return True

    def epoch(self):
        """The time at uptime 0, or None; it moves only when the clock was set, so that a reading keeps its time."""
        time = self.hal.time()
        if time is not None:
            epoch = time - self.hal.uptime() * 1000
            if self._epoch is None or abs(epoch - self._epoch) > _CLOCK_SET:
                self._epoch = epoch
        return self._epoch

    def _acknowledged(self, token):
        self._useful()
        if isinstance(token, list):
            token[STATE] = ACKNOWLEDGED
            return
        if self.ota:
            self.ota.delivered = True
        boot, first, number = token
        self.queue.acknowledge(first, number, boot)
        if self.observer:
            for seq in range(first, first + number):
                self.observer.on_acknowledged(boot, seq)
        if self.queue.lost and self.queue.has_room(16):
            count = self.queue.lost
            self.queue.lost = 0
            self.emit(LOST, {"count": count})

    def _message(self, topic, payload, packet):
        if self.twin and self.twin.message(topic, payload, packet):
            return
        if self.ota and self.ota.message(topic, payload, packet):
            return
        try:
            command, expires, name, args, cause = wire.decode_command(payload)
        except ValueError as error:
            self.report("command", error)
        else:
            known = self.commands.find(command)
            if self.observer:
                self.observer.on_command(command, name, cause, known is not None)
            if known:
                self.commands.repeat(known)
            else:
                time = self.hal.time()
                error = self.commands.carry_out(command, name, args, time is not None and time > expires)
                if error:
                    self.report(name, error)
                else:
                    self.works(name)
        if packet:
            self.session.acknowledge(packet)
