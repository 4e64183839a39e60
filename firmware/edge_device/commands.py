"""Commands: which handler, and what was answered, so that a repeat gets the same answer and does nothing."""

from micropython import const

from . import wire

_REMEMBERED = const(16)
_MAX_REPLY = const(4096)  # sixteen are kept; and what the gateway does not take would block the rest for ever

# Fields of a remembered command, a list.
ID = 0
REPLY = 1  # as on the wire
STATE = 2
SENT_BEFORE = 3

TO_SEND = 0
FLYING = 1
ACKNOWLEDGED = 2


def describe(error):
    """An exception as a short text for the other side."""
    return (type(error).__name__ + ": " + str(error))[:200]


class Commands:
    """The handlers, and the last 16 commands with their replies; a reply is kept until it is acknowledged."""

    keep = None
    """Called before a handler is run, with the command's id, and when its reply is known: to remember it."""

    def __init__(self):
        self.handlers = {}
        self._recent = []

    def find(self, command):
        """The remembered command with that id, or None."""
        for entry in self._recent:
            if entry[ID] == command:
                return entry
        return None

    def carry_out(self, command, name, args, expired):
        """Deal with a command that has not been met before, and remember its reply; returns an error's text or ""."""
        error = ""
        result = None
        handler = self.handlers.get(name)
        if expired:
            status = wire.EXPIRED
        elif handler is None:
            status = wire.UNKNOWN
        else:
            try:
                if self.keep:
                    self.keep(command)
                result = handler(args)
                status = wire.DONE
            except Exception as failure:  # whatever the user's code does wrong is the reply, not our end
                status = wire.FAILED
                result = error = describe(failure)
        try:
            reply = wire.encode_reply(command, status, result)
            if len(reply) > _MAX_REPLY:
                raise ValueError("a reply of " + str(len(reply)) + " bytes is too large")
        except (TypeError, ValueError) as failure:
            error = "the result cannot be sent: " + describe(failure)
            reply = wire.encode_reply(command, wire.FAILED, error)
        if len(self._recent) >= _REMEMBERED:
            self._recent.pop(0)
        self._recent.append([command, bytes(reply), TO_SEND, False])
        if self.keep:
            self.keep()
        return error

    def repeat(self, entry):
        """A command came again: its reply is due again, unless it is on its way."""
        if entry[STATE] == ACKNOWLEDGED:
            entry[STATE] = TO_SEND

    def take(self):
        """The next reply to send, now on its way, or None."""
        for entry in self._recent:
            if entry[STATE] == TO_SEND:
                entry[STATE] = FLYING
                return entry
        return None

    def rewind(self):
        """The connection is lost: replies without an acknowledgement are due again."""
        for entry in self._recent:
            if entry[STATE] == FLYING:
                entry[STATE] = TO_SEND
