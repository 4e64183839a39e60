"""JSON Web Tokens (RFC 7519) in place of a token: made anew for each connection, signed ES256 with the board's own key.

`"jwt": {"key": "/board.key", "audience": "mysite", "seconds": 3600}`: the key is P-256, as PEM or DER (SEC 1 or
PKCS 8); the audience is the gateway's name. A JWT says when it was made, so it needs the time.
"""

import json
from binascii import b2a_base64

from .config import ConfigError
from .p256 import sign

_SKEW = 60  # seconds: a gateway whose clock is behind ours takes it all the same


def _base64url(data):
    return b2a_base64(data).strip().rstrip(b"=").replace(b"+", b"-").replace(b"/", b"_")


def private_key(data):
    """The 32 bytes of a private key in DER; ValueError where there are none."""
    at = data.find(b"\x02\x01\x01\x04\x20")  # version 1, then an octet string of 32 (RFC 5915)
    if at < 0 or len(data) < at + 37:
        raise ValueError("the JWT's key is not a private key for P-256")
    return data[at + 5 : at + 37]


class Signer:
    """Makes the tokens of a device."""

    def __init__(self, device, form, where):
        good = isinstance(form, dict) and "key" in form and "audience" in form
        for name in form if good else ():
            good = good and name in ("key", "audience", "seconds")
            good = good and isinstance(form[name], int if name == "seconds" else str)
        seconds = form.get("seconds", 3600) if good else 0
        if not 60 <= seconds <= 86000:
            raise ConfigError(
                where + ': \'jwt\' must be an object such as {"key": "/board.key", "audience": "mysite"}, with'
                " 'seconds' from 60 to 86000 if at all"
            )
        self._path = form["key"]
        self._audience = form["audience"]
        self._seconds = seconds

    def token(self, hal):
        """A token from now on; ValueError while the time is not known, and for a key that cannot be used."""
        time = hal.time()
        if time is None:
            raise ValueError("a JWT needs the time, which this board does not know yet")
        from .tls import der

        now = time // 1000000
        claims = {"iat": now - _SKEW, "exp": now + self._seconds, "aud": self._audience}
        text = _base64url(b'{"alg":"ES256","typ":"JWT"}') + b"." + _base64url(json.dumps(claims).encode())
        return text + b"." + _base64url(sign(private_key(der(self._path)), text))
