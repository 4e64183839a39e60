"""The envelopes of `docs/wire.md`: events and replies out, commands in."""

from . import cbor

DONE = 0
FAILED = 1
UNKNOWN = 2
EXPIRED = 3


def check_name(name, what, longest=64):
    """Raise ValueError unless `name` is fit to be a kind of event, a command's name or a device id."""
    good = isinstance(name, str) and 1 <= len(name) <= longest and name[0] not in "_.-"
    if good:
        for char in name:
            if not ("a" <= char <= "z" or "A" <= char <= "Z" or "0" <= char <= "9" or char in "_.-"):
                good = False
    if not good:
        raise ValueError(
            what + " " + repr(name) + " is not a name: 1 to " + str(longest) + " of A-Z a-z 0-9 _ . -,"
            " the first a letter or digit"
        )


def encode_events(boot, readings, epoch, sent):
    """One packet of `readings`: (seq, kind, uptime in ms, data as CBOR), with sequences that follow each other.

    `epoch` is the time at uptime 0 (microseconds since 1970) or None while it is unknown; `sent` is the uptime at which
    the packet is built (ms), or None. One reading makes the single form, more make a batch.
    """
    first = readings[0]
    base = first[2]
    out = bytearray()
    cbor.head(out, 5, 5 if epoch is None and sent is not None else 4)
    out.append(0)
    cbor.encode(boot, out)
    out.append(1)
    cbor.head(out, 0, first[0])
    if epoch is None:
        out.append(3)
        cbor.head(out, 0, base)
    else:
        out.append(2)
        cbor.encode(epoch + base * 1000, out)
    if len(readings) == 1:
        out.append(4)
        out.extend(first[3])
    else:
        out.append(5)
        cbor.head(out, 4, len(readings))
        for reading in readings:
            out.append(0x83)
            cbor.head(out, 0, reading[2] - base)
            cbor.encode(reading[1], out)
            out.extend(reading[3])
    if epoch is None and sent is not None:
        out.append(6)
        cbor.head(out, 0, sent)
    return out


def encode_reply(command, status, result=None):
    """The reply to the command with the id `command` (16 bytes)."""
    out = bytearray()
    cbor.head(out, 5, 2 if result is None else 3)
    out.append(0)
    cbor.encode(command, out)
    out.append(1)
    out.append(status)
    if result is not None:
        out.append(2)
        cbor.encode(result, out)
    return out


def decode_command(payload):
    """(id, expires in microseconds since 1970, name, args, cause as (boot, seq) or None); raises ValueError."""
    form = cbor.decode(payload)
    if not isinstance(form, dict):
        raise ValueError("a command is a CBOR map")
    command = form.get(0)
    if not isinstance(command, bytes) or len(command) != 16:
        raise ValueError("a command has no id of 16 bytes")
    expires = form.get(1)
    if not isinstance(expires, int):
        raise ValueError("a command has no expiry")
    name = form.get(2)
    if not isinstance(name, str):
        raise ValueError("a command has no name")
    cause = form.get(4)
    if cause is not None:
        if not isinstance(cause, list) or len(cause) != 2:
            raise ValueError("a command's cause is not [boot, seq]")
        cause = tuple(cause)
    return command, expires, name, form.get(3), cause
