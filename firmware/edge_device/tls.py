"""TLS on a connection: the gateway's own CA and nobody else's, its name checked, and our certificate where we have one.

`"tls": {"ca": "/ca.pem", "name": "gateway.local", "since": 1795000000, "cert": "/board.pem", "key": "/board.key"}`:
only `ca` is required. Files are PEM or DER; not all ports read PEM, so it is unpacked here.
"""

import binascii
import gc


def der(path):
    """A certificate or key as DER; raises OSError or ValueError with a text."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        raise ValueError("there is no file " + path + " on this board") from None
    if data.startswith(b"-----BEGIN"):
        data = binascii.a2b_base64(b"".join(data.split(b"-----")[2].split()))
    return data


def check(tls):
    """Whether the settings of `tls` are as they should be."""
    good = isinstance(tls, dict) and "ca" in tls and ("cert" in tls) == ("key" in tls)
    for name in tls if good else ():
        good = good and name in ("ca", "name", "cert", "key", "since")
        good = good and isinstance(tls[name], int if name == "since" else str)
    return good


def context(tls, hal):
    """What all connections of a link have in common; raises ValueError for files that cannot be used."""
    import ssl  # not every port has it

    if "since" in tls:
        # The CA's certificate was valid when the board was given it, and so is every certificate that the CA signs:
        # from there on dates mean something.
        from .floor import raise_clock

        raise_clock(tls["since"], hal)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=der(tls["ca"]))
    if "cert" in tls:
        context.load_cert_chain(der(tls["cert"]), der(tls["key"]))
    return context


def wrap(sock, context, name):
    """A connected, non-blocking socket with TLS on it, which shakes hands while it is read and written."""
    gc.collect()  # it wants 3 KB in one piece
    return context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
