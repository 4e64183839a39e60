"""JSON Web Tokens (RFC 7519) in place of a token: made anew for each connection, signed with the board's own key.

`"jwt": {"key": "/board.key", "audience": "mysite", "seconds": 3600}`: ES256. The key is P-256, as PEM or DER (SEC 1 or
PKCS 8), and the gateway has the public one. `"jwt": {"alg": "HS256", "secret": "...", "audience": "mysite"}`: HS256,
with a secret that the gateway has, too. The audience is the gateway's name. A JWT needs the time: it says when it was
made.
"""

import json
from binascii import b2a_base64

from .config import ConfigError
from .mac import hmac, unbase64url

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

    def __init__(self, form, where):
        shared = isinstance(form, dict) and form.get("alg") == "HS256"
        named = "secret" if shared else "key"
        good = isinstance(form, dict) and named in form and "audience" in form
        for name in form if good else ():
            good = good and name in ("alg", named, "audience", "seconds")
            good = good and isinstance(form[name], int if name == "seconds" else str)
        seconds = form.get("seconds", 3600) if good else 0
        if not 60 <= seconds <= 86000 or not (shared or form.get("alg", "ES256") == "ES256"):
            raise ConfigError(
                where + ': \'jwt\' must be an object such as {"key": "/board.key", "audience": "mysite"} or'
                ' {"alg": "HS256", "secret": "...", "audience": "mysite"}, with \'seconds\' from 60 to 86000 if at all'
            )
        self.secret = None
        """What both sides know, 32 bytes; None with a key of our own."""
        if shared:
            try:
                self.secret = unbase64url(form["secret"])
            except ValueError:
                pass
            if not self.secret or len(self.secret) != 32:
                raise ConfigError(where + ": the 'secret' of 'jwt' is not one: it has 43 characters")
        self._path = form.get("key")
        self._audience = form["audience"]
        self._seconds = seconds

    def token(self, hal):
        """A token from now on; ValueError while the time is not known, and for a key that cannot be used."""
        time = hal.time()
        if time is None:
            raise ValueError("a JWT needs the time, which this board does not know yet")
        now = time // 1000000
        claims = {"iat": now - _SKEW, "exp": now + self._seconds, "aud": self._audience}
        head = b'{"alg":"HS256","typ":"JWT"}' if self.secret else b'{"alg":"ES256","typ":"JWT"}'
        text = _base64url(head) + b"." + _base64url(json.dumps(claims).encode())
        return text + b"." + _base64url(self._sign(text))

    def _sign(self, text):
        if self.secret:
            return hmac(self.secret, text)
        from .p256 import sign
        from .tls import der

        return sign(private_key(der(self._path)), text)
