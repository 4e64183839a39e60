"""CBOR (RFC 8949) for plain values: maps, arrays, text, bytes, 64-bit integers, floats, booleans, null.

What is written is the shortest form. What is read may be any definite-length encoding; tags, indefinite lengths and
`undefined` are refused, as `docs/wire.md` has it.
"""

import struct

from micropython import const

_MAX_DEPTH = const(19)


def head(out, major, value):
    """Append an item's head to the bytearray `out`: its major type (0 to 7) and its argument."""
    major <<= 5
    if value < 24:
        out.append(major | value)
    elif value < 0x100:
        out.append(major | 24)
        out.append(value)
    elif value < 0x10000:
        out.append(major | 25)
        out.extend(struct.pack(">H", value))
    elif value >> 32 == 0:
        out.append(major | 26)
        out.extend(struct.pack(">I", value))
    elif value >> 64 == 0:
        out.append(major | 27)
        out.extend(struct.pack(">Q", value))
    else:
        raise ValueError("an integer does not fit 64 bits")


def encode(value, out, depth=0):
    """Append `value` to the bytearray `out`; raises ValueError or TypeError for what the wire does not carry."""
    if value is None:
        out.append(0xF6)
    elif value is True:
        out.append(0xF5)
    elif value is False:
        out.append(0xF4)
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError("an integer does not fit 64 bits")
        if value < 0:
            head(out, 1, -1 - value)
        else:
            head(out, 0, value)
    elif isinstance(value, float):
        _encode_float(value, out)
    elif isinstance(value, str):
        raw = value.encode()
        head(out, 3, len(raw))
        out.extend(raw)
    elif isinstance(value, (bytes, bytearray)):
        head(out, 2, len(value))
        out.extend(value)
    elif depth >= 16:
        raise ValueError("values are nested deeper than 16 levels")
    elif isinstance(value, dict):
        head(out, 5, len(value))
        for key in value:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise TypeError("a map key is neither text nor an integer")
            encode(key, out, depth + 1)
            encode(value[key], out, depth + 1)
    elif isinstance(value, (list, tuple)):
        head(out, 4, len(value))
        for item in value:
            encode(item, out, depth + 1)
    else:
        raise TypeError("a value of type " + type(value).__name__ + " cannot be sent")


def _encode_float(value, out):
    try:
        short = struct.pack(">f", value)
        exact = value != value or struct.unpack(">f", short)[0] == value
    except OverflowError:  # CPython and some builds refuse what others turn into infinity
        exact = False
    if exact:
        out.append(0xFA)
        out.extend(short)
    else:
        out.append(0xFB)
        out.extend(struct.pack(">d", value))


def decode(data):
    """The one item that the bytes `data` hold; raises ValueError."""
    value, end = _decode(data, 0, 0)
    if end != len(data):
        raise ValueError("bytes after the CBOR item")
    return value


def _decode(data, at, depth):
    if depth > _MAX_DEPTH:
        raise ValueError("CBOR nested too deeply")
    if at >= len(data):
        raise ValueError("CBOR ends too early")
    first = data[at]
    at += 1
    major = first >> 5
    value = first & 31
    if major == 7:
        return _decode_simple(data, at, value)
    if value >= 24:
        if value > 27:
            raise ValueError("CBOR of indefinite length")
        size = 1 << (value - 24)
        value = _uint(data, at, size)
        at += size
    if major == 0:
        return value, at
    if major == 1:
        return -1 - value, at
    if major == 6:
        raise ValueError("CBOR tags are not used here")
    if value > len(data) - at:  # an item takes a byte at least: a false length must not ask for memory
        raise ValueError("CBOR ends too early")
    if major == 2:
        return bytes(data[at : at + value]), at + value
    if major == 3:
        return str(data[at : at + value], "utf-8"), at + value
    if major == 4:
        items = []
        for _ in range(value):
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        return items, at
    form = {}
    for _ in range(value):
        key, at = _decode(data, at, depth + 1)
        if isinstance(key, bool) or not isinstance(key, (str, int)):
            raise ValueError("a CBOR map key is neither text nor an integer")
        if key in form:
            raise ValueError("a CBOR map has a key twice")
        form[key], at = _decode(data, at, depth + 1)
    return form, at


def _decode_simple(data, at, value):
    if value == 20:
        return False, at
    if value == 21:
        return True, at
    if value == 22:
        return None, at
    if value == 25:
        return _half(_uint(data, at, 2)), at + 2
    if value == 26 or value == 27:
        size = 1 << (value - 24)
        _uint(data, at, size)
        return struct.unpack(">f" if size == 4 else ">d", data[at : at + size])[0], at + size
    raise ValueError("a CBOR simple value that is not used here")


def _uint(data, at, size):
    if at + size > len(data):
        raise ValueError("CBOR ends too early")
    return int.from_bytes(data[at : at + size], "big")


def _half(bits):
    """A float of 16 bits (RFC 8949, appendix D)."""
    exponent = bits >> 10 & 31
    fraction = bits & 1023
    if exponent == 31:
        value = float("nan") if fraction else float("inf")
    elif exponent == 0:
        value = fraction * 2.0**-24
    else:
        value = (fraction + 1024) * 2.0 ** (exponent - 25)
    return -value if bits >> 15 else value
