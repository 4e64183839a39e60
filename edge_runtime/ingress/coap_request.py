"""What a CoAP request to the gateway asks for: its options, read and judged, without a look at who asks."""

from __future__ import annotations

import msgspec

from edge_runtime.errors import WireError
from edge_runtime.events import DEVICE, NAME
from edge_runtime.ingress import stamps
from edge_runtime.ingress.formats import Form
from edge_runtime.proto.coap import Message, numbers

_UNDERSTOOD = frozenset(
    (
        numbers.IF_MATCH,
        numbers.URI_HOST,
        numbers.IF_NONE_MATCH,
        numbers.URI_PORT,
        numbers.OSCORE,
        numbers.URI_PATH,
        numbers.URI_QUERY,
        numbers.ACCEPT,
        numbers.BLOCK1,
        numbers.BLOCK2,
    )
)
"""Critical options that somebody here deals with."""
_ELSEWHERE = frozenset(
    (numbers.IF_MATCH, numbers.IF_NONE_MATCH, numbers.OBSERVE, numbers.OSCORE, numbers.BLOCK1, numbers.BLOCK2)
)
"""Options that the hot path has nothing to do with."""
_ONCE = frozenset(
    (numbers.URI_HOST, numbers.URI_PORT, numbers.OSCORE, numbers.CONTENT_FORMAT, numbers.ACCEPT, numbers.BLOCK1)
)
WELL_KNOWN = [b".well-known", b"core"]
POSTS = ("events", "replies", "state", "config/ack", "ota/report")
OFFER, DATA = "ota/offer", "ota/data"
"""What a board asks about updates; the answer is at hand, and changes nothing."""
_METHODS = dict.fromkeys(POSTS, numbers.POST) | {DATA: numbers.FETCH}
"""The others are fetched with GET."""
_PLACES = {tuple(verb.split("/")): verb for verb in (*POSTS, "commands", "config", OFFER, DATA)}


class Refusal(Exception):
    """The request is refused with this code, whoever asks."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Target(msgspec.Struct, frozen=True):
    """What a request is about."""

    device: str
    """Empty for `.well-known/core` and for what only OSCORE can tell."""
    verb: str = ""
    kind: str | None = None
    """None for a batch."""
    form: Form | None = Form.BYTES
    """None for a content format that nobody here reads."""
    key: bytes | None = None
    identity: tuple[bytes, int] | None = None
    wrong: str = ""
    """What keeps a POST from becoming an event."""
    hot: bool = False
    """A plain POST, or question about updates, in one piece."""
    protected: bool = False
    """It comes in OSCORE."""

    @property
    def topic(self) -> str:
        """The place it was sent to, for a dead letter."""
        return f"/devices/{self.device}/{self.verb}" + (f"/{self.kind}" if self.kind is not None else "")


def read(message: Message) -> Target:
    """Judge the options of a request. Raises Refusal."""
    given = [number for number, _ in message.options]
    present = frozenset(given)
    if numbers.PROXY_URI in present or numbers.PROXY_SCHEME in present:
        raise Refusal(numbers.PROXYING_NOT_SUPPORTED)
    if any(number & 1 and number not in _UNDERSTOOD for number in present) or any(
        number in _ONCE and given.count(number) > 1 for number in present
    ):
        raise Refusal(numbers.BAD_OPTION)  # sections 5.4.1 and 5.4.5
    if numbers.OSCORE in present:
        if numbers.URI_PATH in present or numbers.URI_QUERY in present:
            raise Refusal(numbers.BAD_OPTION)  # RFC 8613 section 4.1: these belong inside
        return Target("", protected=True)
    path = message.all(numbers.URI_PATH)
    if path == WELL_KNOWN:
        return Target("")
    device, verb, kind = _place(path)
    allowed = _METHODS.get(verb, numbers.GET)
    if message.code != allowed:
        raise Refusal(numbers.METHOD_NOT_ALLOWED)
    queries = parameters(message.all(numbers.URI_QUERY))
    key = queries.get("k")
    try:
        identity, wrong = stamps.given(queries.get("b"), queries.get("s")), ""
    except WireError as error:
        identity, wrong = None, str(error)
    hot = (allowed == numbers.POST or verb in (OFFER, DATA)) and not present & _ELSEWHERE
    form = content_form(message.all(numbers.CONTENT_FORMAT))
    return Target(device, verb, kind, form, key.encode() if key is not None else None, identity, wrong, hot)


def parameters(queries: list[bytes]) -> dict[str, str]:
    """`name=value` of each Uri-Query option; of a name that is there twice, the last."""
    found = {}
    for query in queries:
        name, _, value = query.decode("utf-8", "replace").partition("=")
        found[name] = value
    return found


def content_form(values: list[bytes]) -> Form | None:
    """The form of a payload; plain bytes where the request does not say."""
    if not values:
        return Form.BYTES
    number = int.from_bytes(values[0])
    return Form(number) if len(values[0]) <= 2 and number in Form.__members__.values() else None


def place(path: tuple[str, ...]) -> tuple[str, str, str | None]:
    """The device, the verb and the kind that a path names. Raises Refusal."""
    if len(path) < 3 or path[0] != "devices" or not DEVICE.fullmatch(path[1]):
        raise Refusal(numbers.NOT_FOUND)
    verb = _PLACES.get(tuple(path[2:]))
    if verb is not None:
        return path[1], verb, None
    if len(path) == 4 and path[2] == "events" and NAME.fullmatch(path[3]):
        return path[1], path[2], path[3]
    raise Refusal(numbers.NOT_FOUND)


def _place(path: list[bytes]) -> tuple[str, str, str | None]:
    try:
        return place(tuple(segment.decode() for segment in path))
    except UnicodeDecodeError:
        raise Refusal(numbers.NOT_FOUND) from None
