"""What is wrong with what a peer has sent."""

from __future__ import annotations

from edge_runtime.errors import EdgeError

MALFORMED, PROTOCOL_ERROR = 0x81, 0x82


class ProtocolViolation(EdgeError):
    """The peer broke the protocol; its connection must be closed ([MQTT-4.8.0-1]) and nothing more read from it."""

    def __init__(
        self, message: str, statement: str = "MQTT-4.8.0-1", *, answer: bytes = b"", reason: int = MALFORMED
    ) -> None:
        super().__init__(f"{message} [{statement}]")
        self.statement = statement
        """The normative statement that was broken, by its name in the standard; for a limit, its setting.

        What both versions say is named as in MQTT 3.1.1.
        """
        self.answer = answer
        """What the standard wants sent before the connection is closed: a CONNACK, or nothing."""
        self.reason = reason
        """The reason code of the DISCONNECT with which MQTT 5 says so (section 4.13)."""
