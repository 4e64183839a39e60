"""The numbers of CoAP: types, codes, options, content formats, and the times of RFC 7252 section 4.8."""

from __future__ import annotations

import msgspec

VERSION = 1
MAX_TOKEN = 8
PAYLOAD_MARKER = 0xFF

CON, NON, ACK, RST = range(4)
"""Message types (section 3)."""


def code(text: str) -> int:
    """The number of a code in its dotted form: `code("2.04")` is 0x44."""
    category, _, detail = text.partition(".")
    return int(category) << 5 | int(detail)


EMPTY = 0
GET, POST, PUT, DELETE = 1, 2, 3, 4
FETCH = 5
"""RFC 8132: as GET, with a body that says what is wanted."""
CREATED = code("2.01")
CHANGED = code("2.04")
CONTENT = code("2.05")
BAD_REQUEST = code("4.00")
UNAUTHORIZED = code("4.01")
BAD_OPTION = code("4.02")
FORBIDDEN = code("4.03")
NOT_FOUND = code("4.04")
METHOD_NOT_ALLOWED = code("4.05")
REQUEST_ENTITY_TOO_LARGE = code("4.13")
UNSUPPORTED_CONTENT_FORMAT = code("4.15")
SERVICE_UNAVAILABLE = code("5.03")
PROXYING_NOT_SUPPORTED = code("5.05")

IF_MATCH = 1
URI_HOST = 3
ETAG = 4
IF_NONE_MATCH = 5
OBSERVE = 6
URI_PORT = 7
OSCORE = 9
URI_PATH = 11
CONTENT_FORMAT = 12
MAX_AGE = 14
URI_QUERY = 15
ACCEPT = 17
BLOCK2 = 23
BLOCK1 = 27
PROXY_URI = 35
PROXY_SCHEME = 39
SIZE1 = 60
NO_RESPONSE = 258


class Transmission(msgspec.Struct, frozen=True):
    """Transmission parameters (section 4.8), in microseconds; what follows from them has the names of section 4.8.2."""

    ACK_TIMEOUT: int = 2_000_000
    ACK_RANDOM_FACTOR: float = 1.5
    MAX_RETRANSMIT: int = 4
    NSTART: int = 1
    MAX_LATENCY: int = 100_000_000

    @property
    def PROCESSING_DELAY(self) -> int:  # noqa: N802
        """How long a node may take to answer a CON before its peer sends it again."""
        return self.ACK_TIMEOUT

    @property
    def MAX_TRANSMIT_SPAN(self) -> int:  # noqa: N802
        """From the first transmission of a CON to its last: 45 s by default."""
        return round(self.ACK_TIMEOUT * ((1 << self.MAX_RETRANSMIT) - 1) * self.ACK_RANDOM_FACTOR)

    @property
    def MAX_TRANSMIT_WAIT(self) -> int:  # noqa: N802
        """From the first transmission of a CON to giving up: 93 s by default."""
        return round(self.ACK_TIMEOUT * ((2 << self.MAX_RETRANSMIT) - 1) * self.ACK_RANDOM_FACTOR)

    @property
    def MAX_RTT(self) -> int:  # noqa: N802
        """The longest round trip: 202 s by default."""
        return 2 * self.MAX_LATENCY + self.PROCESSING_DELAY

    @property
    def EXCHANGE_LIFETIME(self) -> int:  # noqa: N802
        """How long the message id of a CON must not be used again: 247 s by default."""
        return self.MAX_TRANSMIT_SPAN + 2 * self.MAX_LATENCY + self.PROCESSING_DELAY

    @property
    def NON_LIFETIME(self) -> int:  # noqa: N802
        """How long the message id of a NON must not be used again: 145 s by default."""
        return self.MAX_TRANSMIT_SPAN + self.MAX_LATENCY

    @property
    def EMPTY_ACK_AFTER(self) -> int:  # noqa: N802
        """Ours: when a CON that cannot be answered yet gets an empty ACK, in time to spare its peer a repetition."""
        return self.PROCESSING_DELAY // 2
