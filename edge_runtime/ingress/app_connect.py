"""A program's CONNECT: whether it is let in, to which session, and on which terms (MQTT 5.0 section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edge_runtime.ingress.broker.message import FOR_EVER
from edge_runtime.ingress.broker.session import Link, Session
from edge_runtime.ingress.broker.users import RESPONSES
from edge_runtime.proto import mqtt
from edge_runtime.proto.mqtt import Properties, Reason

if TYPE_CHECKING:
    from edge_runtime.ingress.broker.broker import Broker

_CLIENT_ID = 512
"""Characters of a client identifier at most."""
_MOST_IN_FLIGHT = 65_535
"""Of a client that names no receive maximum (MQTT 5.0 section 3.1.2.11.3)."""


class Terms(msgspec.Struct, frozen=True):
    """What holds between client and gateway from here on."""

    session: Session
    present: bool
    """Whether the session was there before."""
    expiry: int
    """Seconds that the client wants its session kept."""
    patience: int
    """Seconds of silence after which it counts as gone: 1.5 times its keep-alive ([MQTT-3.1.2-22])."""
    answer: Properties
    """Those of the CONNACK in MQTT 5."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a client is not let in."""

    reason: Reason
    code: mqtt.ConnectCode
    """The same for one of MQTT 3.1.1."""
    why: str
    """The same for the security log."""


TOO_LONG = Refusal(Reason.CLIENT_ID_NOT_VALID, mqtt.ConnectCode.IDENTIFIER_REJECTED, "its client id is too long")
NO_WILL = Refusal(Reason.NOT_AUTHORISED, mqtt.ConnectCode.NOT_AUTHORISED, "no permission for its will's topic")
NO_ROOM = Refusal(Reason.QUOTA_EXCEEDED, mqtt.ConnectCode.SERVER_UNAVAILABLE, "there are too many sessions")
NOT_STORED = Refusal(Reason.QUOTA_EXCEEDED, mqtt.ConnectCode.SERVER_UNAVAILABLE, "its session cannot be stored")


def window(packet: mqtt.Connect, otherwise: int) -> int:
    """How many messages the client takes without having acknowledged them; one of 3.1.1 cannot say so."""
    return packet.properties.receive_maximum or _MOST_IN_FLIGHT if packet.version == 5 else otherwise


def enter(
    broker: Broker, link: Link, packet: mqtt.Connect, client_id: str, *, max_packet: int, idle: int
) -> Terms | Refusal:
    """Have a user who has shown the right key enter its session, or say why not.

    `client_id` is the packet's, or the one that was made up for it; after `idle` seconds of silence a client without
    a keep-alive counts as gone.
    """
    limits, properties = broker.limits, packet.properties
    name = packet.user_name or ""
    if len(client_id) > _CLIENT_ID:
        return TOO_LONG
    user = broker.users.get(name)
    if packet.will is not None and (user is None or not user.may_publish(packet.will.topic)):
        return NO_WILL
    expiry = properties.session_expiry or 0
    if packet.version == 4:
        expiry = 0 if packet.clean_session else FOR_EVER
    entered = broker.sessions.enter(link, name, client_id, clean=packet.clean_session, expiry=expiry, will=packet.will)
    if entered is None:
        return NO_ROOM
    session, present = entered
    keep_alive = packet.keep_alive or idle * 2 // 3
    answer = Properties(
        session_expiry=session.expiry if session.expiry != expiry else None,
        receive_maximum=limits.receive_maximum,
        maximum_packet_size=max_packet,
        assigned_client_id=None if packet.client_id else client_id,  # [MQTT-3.2.2-16]
        topic_alias_maximum=limits.topic_aliases,
        server_keep_alive=None if packet.keep_alive else keep_alive,
        response_information=f"{RESPONSES}/{name}/" if properties.request_response_information else None,
    )
    return Terms(session, present, expiry, (keep_alive * 3 + 1) // 2 + 1, answer)
