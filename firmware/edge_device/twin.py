"""What the gateway wants this board to be set to, and the state the board says it is in: the newest of each.

Loaded with the first `on_config` or `report`: a board without either spends next to no memory on it.
"""

from micropython import const

from . import cbor
from .commands import ACKNOWLEDGED, FLYING, STATE, TO_SEND, describe

_MOST = const(4096)  # of a state: what is held in RAM until it is acknowledged

# What is to be told is a list, like a command's reply, and settled like one: [topic, payload, state, newer payload].
PAYLOAD = 1
NEWER = 3


def attach(core):
    """The core's twin, made when it is first asked for: before the board connects, or it is not configured."""
    if core.twin is None:
        core.twin = Twin(core)
        core.twin.keep = getattr(core, "keep", None)
    return core.twin


class Twin:
    """Takes configurations to `handler(config)`, once for each version; tells what came of them, and states."""

    keep = None  # as `keep.Keep` has it

    def __init__(self, core):
        self.handler = None
        self._core = core
        self._version = 0
        self._since = None
        self._ack = ["/config/ack", None, ACKNOWLEDGED, None]
        self._state = ["/state", None, ACKNOWLEDGED, None]

    def message(self, topic, payload, packet):
        """Something has come; True for a configuration, which has been dealt with."""
        core = self._core
        if topic not in ("config", "/devices/" + core.config.device + "/config"):  # the second over MQTT
            return False
        try:
            error = self._take_config(payload)
        except ValueError as failure:
            error = failure
        if error:
            core.report("config", error)
        else:
            core.works("config")
        if packet:
            core.session.acknowledge(packet)
        return True

    def _take_config(self, payload):
        form = cbor.decode(payload)
        version = form.get(0) if isinstance(form, dict) else None
        if not isinstance(version, int) or 1 not in form:
            raise ValueError("a configuration has no version or says nothing")
        error = ""
        if version != self._version and self.handler:
            try:
                self.handler(form[1])
            except Exception as failure:  # what the program cannot take, the operator is told
                error = describe(failure)
        if not error:
            self._version = version
            if self.keep:
                self.keep.save_config(version, form[1])
        out = bytearray()
        cbor.encode({0: version, 1: 1, 2: error} if error else {0: version, 1: 0}, out)
        self._ack[NEWER] = out
        return error

    def restore(self, version, config):
        """Give the program the configuration that it had before the start, unless a newer one has come."""
        if not self._version:
            try:
                self.handler(config)
                self._version = version
            except Exception as failure:  # it comes again from the gateway, and is answered then
                self._core.report("config", failure)

    def restore_report(self, payload):
        """Tell what was not delivered before the start, unless there is news."""
        if self._state[NEWER] is None and self._state[STATE] == ACKNOWLEDGED:
            self._state[NEWER] = payload

    def undelivered(self):
        """The newest report that the gateway has not acknowledged, as on the wire; None if there is none."""
        if self._state[NEWER] is not None:
            return bytes(self._state[NEWER])
        return None if self._state[STATE] == ACKNOWLEDGED else bytes(self._state[PAYLOAD])

    @property
    def settled(self):
        """Whether nothing is to be told."""
        return all(told[STATE] == ACKNOWLEDGED and told[NEWER] is None for told in (self._ack, self._state))

    def report(self, state):
        """Have the gateway know this state; ValueError or TypeError for what the wire does not carry."""
        out = bytearray()
        cbor.encode({0: state}, out)
        if len(out) > _MOST:
            raise ValueError("a state of " + str(len(out)) + " bytes is too large")
        self._state[NEWER] = out

    def take(self):
        """[topic, payload, ...] of what is to be told next, now on its way; None for nothing."""
        lost = self._since != self._core._since
        self._since = self._core._since  # when this connection was made: no two are made at once
        for told in (self._ack, self._state):
            if told[STATE] == FLYING and lost:
                told[STATE] = TO_SEND
            if told[STATE] != FLYING and told[NEWER] is not None:
                told[PAYLOAD] = told[NEWER]
                told[NEWER] = None
                told[STATE] = TO_SEND
            if told[STATE] == TO_SEND:
                told[STATE] = FLYING
                return told
        return None
