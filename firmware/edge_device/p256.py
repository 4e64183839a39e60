"""ECDSA on P-256 with SHA-256 (FIPS 186-5), signing only, in plain integers: for boards whose port has none.

The work is the same whatever the key is (a fixed window, an addition for each digit), but the integers underneath are
not: who can measure the board's time or current to the microsecond, many times, may learn of the key. The nonce is
that of RFC 6979: no randomness is needed, and none can be bad.
"""

from hashlib import sha256

from .mac import hmac

_P = (1 << 256) - (1 << 224) + (1 << 192) + (1 << 96) - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_GX = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
_GY = 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5


def _double(point):
    # Jacobian coordinates: dbl-2001-b of the Explicit-Formulas Database, for a = -3.
    x, y, z = point
    delta = z * z % _P
    gamma = y * y % _P
    beta = x * gamma % _P
    alpha = 3 * (x - delta) * (x + delta) % _P
    x3 = (alpha * alpha - 8 * beta) % _P
    z3 = ((y + z) * (y + z) - gamma - delta) % _P
    return x3, (alpha * (4 * beta - x3) - 8 * gamma * gamma) % _P, z3


def _add(p, q):
    # add-1998-cmo-2; never of equal points here, nor of one with its opposite.
    if not p[2]:
        return q
    if not q[2]:
        return p
    z1z1 = p[2] * p[2] % _P
    z2z2 = q[2] * q[2] % _P
    u1 = p[0] * z2z2 % _P
    s1 = p[1] * q[2] * z2z2 % _P
    h = (q[0] * z1z1 - u1) % _P
    r = (q[1] * p[2] * z1z1 - s1) % _P
    hh = h * h % _P
    hhh = h * hh % _P
    v = u1 * hh % _P
    x3 = (r * r - hhh - 2 * v) % _P
    return x3, (r * (v - x3) - s1 * hhh) % _P, p[2] * q[2] * h % _P


def _inverse(number, modulus):
    a, b, x, y = number % modulus, modulus, 1, 0
    while a:
        quotient = b // a
        a, b, x, y = b - quotient * a, a, y - quotient * x, x
    return y % modulus


def _x_of(k):
    """The x coordinate of k times the base point, for 0 < k < n."""
    # k plus n, or twice n, has always 257 bits: as many digits whatever k is.
    k += _N if k + _N >> 256 else 2 * _N
    table = [None, (_GX, _GY, 1)]
    for at in range(2, 16):
        table.append(_double(table[at // 2]) if not at & 1 else _add(table[at - 1], table[1]))
    # 64 digits of 1 to 16 in place of 0 to 15, so that each is an addition: 16 is the double of 8.
    table.append(_double(table[8]))
    digits = []
    while k > 16:
        digit = (k - 1 & 15) + 1
        digits.append(digit)
        k = k - digit >> 4
    digits.append(k)
    point = table[digits.pop()]
    while digits:
        for _ in range(4):
            point = _double(point)
        point = _add(point, table[digits.pop()])
    inverse = _inverse(point[2], _P)
    return point[0] * inverse * inverse % _P


def sign(private, message):
    """The signature (r and s, 64 bytes) of `message` with a private key of 32 bytes; ValueError for none."""
    d = int.from_bytes(private, "big")
    if len(private) != 32 or not 0 < d < _N:
        raise ValueError("that is not a private key for P-256")
    digest = sha256(message).digest()
    e = int.from_bytes(digest, "big")
    # RFC 6979 section 3.2.
    seed = private + (e % _N).to_bytes(32, "big")
    v, key = b"\1" * 32, b"\0" * 32
    for octet in (b"\0", b"\1"):
        key = hmac(key, v + octet + seed)
        v = hmac(key, v)
    while True:
        v = hmac(key, v)
        k = int.from_bytes(v, "big")
        if 0 < k < _N:
            r = _x_of(k) % _N
            s = _inverse(k, _N) * (e + r * d) % _N
            if r and s:
                return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        key = hmac(key, v + b"\0")
        v = hmac(key, v)
