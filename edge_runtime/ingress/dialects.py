"""Messages of foreign dialects on their way to admission, whichever broker they came from."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.errors import WireError
from edge_runtime.ingress.admission import Admission, Settle, Verdict
from edge_runtime.ingress.broker.message import Message
from edge_runtime.ingress.mappings import Mapper
from edge_runtime.ingress.stamps import Stamps
from edge_runtime.wire import Envelope, Reading

MAX_DEVICES = 10_000
"""Names from topics that become devices: whoever may publish could otherwise make up any number of them."""


class Dialects:
    """The table of mappings, in use."""

    def __init__(self, mapper: Mapper, admission: Admission, stamps: Stamps, log: Callable[[str], None]) -> None:
        self.mapper = mapper
        self.mapped = 0
        """Messages that became events, or dead letters."""
        self.unmapped = 0
        """Messages on topics of a mapping that had none of its fields."""
        self._admission = admission
        self._stamps = stamps
        self._log = log
        self._devices: set[str] = set()

    def take(self, topic: str, payload: bytes, settle: Settle, *, certain: bool) -> bool:
        """Hand a message in as an event; False if it is none, and then `settle` is not called.

        `certain`: it is not to be given up, however many there are, because its sender waits for `settle` (QoS 1).
        """
        device = self.mapper.device_of(topic)
        if not device or not self._known(device):
            return False
        try:
            found = self.mapper.map(topic, payload)
        except WireError as error:
            self.mapped += 1
            self._admission.submit_dead(device, str(error), payload, topic, settle)
            return True
        if found is None:
            self.unmapped += 1
            return False
        if certain:
            self._admission.pace.spend(device, len(payload))
        elif not self._admission.pace.take_or_drop(device, len(payload)):
            return False
        self.mapped += 1
        boot, seq = self._stamps.take(device, 1)
        reading = Reading(seq, found.kind, found.time, 0, found.data)
        self._admission.submit_decoded(device, Envelope(boot, [reading]), settle)
        return True

    def take_published(self, message: Message, then: Callable[[bool], None]) -> bool:
        """`take`, for a message of our own broker: `then` is told whether it is durable."""

        def settle(verdict: Verdict) -> None:
            then(verdict is not Verdict.REFUSED)

        return self.take(message.topic, message.payload, settle, certain=message.qos > 0)

    def _known(self, device: str) -> bool:
        if device not in self._devices:
            if len(self._devices) >= MAX_DEVICES:
                self._log(f"messages for '{device}' do not become events: topics name more than {MAX_DEVICES} devices")
                return False
            self._devices.add(device)
        return True
