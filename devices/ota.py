"""Updates over the air, the gateway's side: who is offered what, who fetches it, how it went.

Roll-outs and what devices report are `StateChange` records of the flow `$ota`, which no app can have (ADR 0030): they
are durable before anybody acts on them. What is under way besides is nowhere but on the boards, which ask for what they
lack; so a gateway that was killed goes on with the next question.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Sequence
from hashlib import sha256

import msgspec

from devices import rollouts
from devices.keys import HS256, TOKEN
from devices.registry import Registry
from devices.release_store import ReleaseStore
from devices.rollouts import PAUSED, RUNNING, Rollout, Stand, Told
from edge_runtime import wire_ota
from edge_runtime.clock import Clock
from edge_runtime.errors import EdgeError, NotFound, StorageError
from edge_runtime.journal.interface import Journal
from edge_runtime.journal.records import StateChange

KEPT = "$ota"
ROLLOUT, DEVICE = "rollout/", "device/"
OPEN = (RUNNING, PAUSED)
LOOK = 5_000_000
"""How often the steps of roll-outs are looked at, besides at each report; microseconds."""
PAUSE = 200_000
"""Between two looks, at least, however many devices report: one takes 20 ms with 20,000 of them; microseconds."""
AGAIN = 60_000_000
"""After which a device that is due, connected and silent is told once more."""
ROLLOUTS = 50
"""That are remembered; of those that are over, the oldest go first."""
MAX_DEVICES = 20_000
PAGE = 500


class Ota:
    """Made with `await Ota.open(...)`; changes are durable when their call returns."""

    def __init__(
        self, journal: Journal, registry: Registry, clock: Clock, store: ReleaseStore, log: Callable[[str], None]
    ) -> None:
        self.store = store
        self.tell: rollouts.Tell = _nobody
        """How devices are reached."""
        self.connected: Callable[[], Collection[str]] = tuple
        """Those that can be."""
        self.pieces = 0
        """That were handed out since the start, and their bytes."""
        self.bytes = 0
        self._journal = journal
        self._registry = registry
        self._clock = clock
        self._log = log
        self._rollouts: dict[int, Rollout] = {}
        self._turn: dict[str, int] = {}
        """The roll-out, one that is running, in which a device has its turn."""
        self._told: dict[str, Told] = {}
        self._offered: dict[str, tuple[int, int]] = {}
        """Which roll-out a device was told of, and when (monotonic)."""
        self._changing = asyncio.Lock()
        self._wake = asyncio.Event()
        self._forgetting: set[asyncio.Task[None]] = set()
        registry.watch(self._device_changed)

    @classmethod
    async def open(
        cls, journal: Journal, registry: Registry, clock: Clock, store: ReleaseStore, log: Callable[[str], None]
    ) -> Ota:
        """As the journal has it."""
        ota = cls(journal, registry, clock, store, log)
        after = ""
        while keys := await journal.state_keys(KEPT, after, PAGE):
            for key, state in (await journal.states(KEPT, keys)).items():
                raw = state[""][0]
                if key.startswith(ROLLOUT):
                    rollout = msgspec.json.decode(raw, type=Rollout)
                    ota._rollouts[rollout.number] = rollout
                else:
                    ota._told[key.removeprefix(DEVICE)] = msgspec.json.decode(raw, type=Told)
            after = keys[-1]
        ota._take_turns()
        return ota

    # What devices say

    async def report(self, device: str, payload: bytes) -> bool:
        """A device says what it runs; False if that is known. Raises WireError, StorageError."""
        before = self._told.get(device)
        highest = 0 if before is None else before.highest
        told = Told.of(wire_ota.decode_report(payload), self._clock.now(), highest)
        if before is not None and msgspec.structs.replace(told, at=before.at) == before:
            self._offer(device)
            return False
        # Only the newest is of interest, and a device says one thing after the other: no lock.
        await self._journal.append([_change(DEVICE + device, told)])
        self._told[device] = told
        self._wake.set()
        self._offer(device)
        return True

    def ask(self, device: str, payload: bytes) -> None:
        """A device wants a piece of what it was offered. Raises WireError."""
        piece = self.piece(device, payload)
        if piece is None:
            self.tell(device, "offer", wire_ota.NOTHING)
        else:
            self.tell(device, "data", piece)

    def piece(self, device: str, payload: bytes, most: int = wire_ota.MAX_PIECE) -> bytes | None:
        """The answer to an ask, with `most` bytes of the file at most; None where nothing is offered.

        Raises WireError.
        """
        ask = wire_ota.decode_ask(payload)
        rollout = self._meant_for(device)
        if rollout is None:
            return None
        data = b""
        try:
            content = self.store.content(rollout.release, ask.digest.hex())
            data = content[ask.offset : ask.offset + min(ask.length, most)]
        except NotFound:
            pass  # an empty piece says so
        except EdgeError as error:
            self._log(f"a piece of {rollout.name} {rollout.version} for '{device}': {error}. {error.hint}")
        self.pieces += 1
        self.bytes += len(data)
        return wire_ota.encode_data(ask.digest, ask.offset, data)

    # What is offered

    def _meant_for(self, device: str) -> Rollout | None:
        """The roll-out in which a device has its turn, and is not through."""
        rollout = self._rollouts.get(self._turn.get(device, 0))
        if rollout is None or device not in self._registry:
            return None
        wanted = rollout.stand(device, self._told.get(device), True) in (Stand.DUE, Stand.FETCHING)
        return rollout if wanted else None

    def offer(self, device: str) -> bytes:
        """What a device is offered just now, as on the wire; `wire_ota.NOTHING` for nothing."""
        rollout = self._meant_for(device)
        found = None if rollout is None else self.store.get(rollout.release)
        if rollout is None or found is None:
            return wire_ota.NOTHING
        release = bytes.fromhex(rollout.release)
        proofs = [wire_ota.prove(key, rollout.number, release, device) for key in self._tokens(device)]
        self._offered[device] = (rollout.number, self._clock.monotonic())
        return wire_ota.encode_offer(release, found.bytes, rollout.number, proofs)

    def _offer(self, device: str) -> None:
        """Tell a device what it is offered, or that it is nothing any more."""
        offer = self.offer(device)
        if offer == wire_ota.NOTHING and self.told(device).state != "fetching":
            return
        if not self.tell(device, "offer", offer):
            self._offered.pop(device, None)

    def _tokens(self, device: str) -> list[bytes]:
        """The digests of what the device and the gateway both know: of its tokens, of its secrets for HS256."""
        record = self._registry.record(device)
        held = [] if record is None else record.all_keys
        tokens = [key.data for key in held if key.type == TOKEN]
        return tokens + [sha256(key.data).digest() for key in held if key.type == HS256]

    async def run(self) -> None:
        """Move roll-outs on, for ever."""
        while True:
            self._wake.clear()
            try:
                await self.look()
            except StorageError as error:
                self._log(f"a roll-out cannot go on: {error}")
            await self._clock.sleep(PAUSE)
            waiting = asyncio.ensure_future(self._wake.wait())
            sleeping = asyncio.ensure_future(self._clock.sleep(LOOK))
            try:
                await asyncio.wait((waiting, sleeping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
                sleeping.cancel()

    async def look(self) -> None:
        """Move roll-outs on as far as the reports allow, and tell devices that have their turn."""
        async with self._changing:
            for rollout in list(self._rollouts.values()):
                removed = {device for device in rollout.devices if device not in self._registry}
                moved = rollout.moved(self._told, self._clock.now(), removed)
                if moved != rollout:
                    await self._keep(moved)
                    if moved.state != rollout.state:
                        why = f" ({moved.why})" if moved.why else ""
                        self._log(f"the roll-out {moved.number} of {moved.name} {moved.version}: {moved.state}{why}")
        connected = frozenset(self.connected()) if self._turn else frozenset()
        for device in connected.intersection(self._turn):
            wanted = self._meant_for(device)
            if wanted is None:
                continue
            number, at = self._offered.get(device, (0, 0))
            due = wanted.stand(device, self._told.get(device), True) is Stand.DUE
            if number != wanted.number or (due and self._clock.monotonic() - at > AGAIN):
                self._offer(device)
        self._offered = {d: offer for d, offer in self._offered.items() if d in self._turn}

    # What people do

    async def roll_out(
        self,
        release: str,
        devices: Sequence[str],
        first: Sequence[str] = (),
        *,
        canary: int = 0,
        shares: Sequence[int] = (),
        tolerated: int = 0,
        soak: int = 0,
    ) -> Rollout:
        """Begin to give devices a release: to `first` or `canary` of them, then to `shares` (per cent), then to all."""
        if not devices:
            raise EdgeError("no device is meant", hint="Name some with --device or --tag, or give --all.")
        if len(devices) > MAX_DEVICES:
            raise EdgeError(f"a roll-out has {MAX_DEVICES} devices at most")
        if tolerated < 0 or soak < 0:
            raise EdgeError("the devices that may fail, and the time that a step has to stand, are not below 0")
        async with self._changing:
            found = self.store.get(release)
            if found is None:
                raise NotFound("there is no such release", hint="See: edge ota list")
            busy = {d: r.number for r in self._rollouts.values() if r.state in OPEN for d in r.devices}
            for device in devices:
                self._check(device, found.manifest.boards)
                if device in busy:
                    hint = f"Wait for its end, or: edge ota abort {busy[device]}"
                    raise EdgeError(f"'{device}' is in the roll-out {busy[device]} already", hint=hint)
            number = rollouts.next_number(self._clock.now(), self._rollouts, self._told.values())
            ordered = rollouts.order(devices, number, first)
            steps = rollouts.steps_of(len(ordered), canary or len(set(first)) or 1, shares)
            m = found.manifest
            rollout = Rollout(
                number,
                release,
                m.name,
                m.version,
                ordered,
                steps,
                self._clock.now(),
                tolerated=tolerated,
                soak=soak,
            )
            await self._keep(rollout)
            over = [r for r in self._rollouts.values() if r.state not in OPEN]
            for old in sorted(over, key=lambda r: r.number)[: max(0, len(self._rollouts) - ROLLOUTS)]:
                await self._journal.append([_gone(f"{ROLLOUT}{old.number}")])
                del self._rollouts[old.number]
        self._wake.set()
        return rollout

    def _check(self, device: str, boards: Sequence[str]) -> None:
        self._registry.info(device)
        if not self._tokens(device):
            raise EdgeError(
                f"'{device}' has no token, and a release is signed for a board with that",
                hint=f"Give it one beside its other key: edge device key add {device}. It goes into its settings.",
            )
        told = self._told.get(device)
        if boards and told is not None and told.platform and told.platform not in boards:
            raise EdgeError(f"'{device}' is of the platform {told.platform}; the release is for {', '.join(boards)}")

    async def pause(self, number: int) -> Rollout:
        """Offer nothing more for now, and let what is under way stand still."""
        return await self._changed(number, lambda rollout: rollout.paused())

    async def resume(self, number: int, *, go_on: bool = False) -> Rollout:
        """Go on, with what has failed until now forgiven; `go_on`: with the next step, whoever is missing."""
        return await self._changed(number, lambda r: r.resumed(self._told, self._clock.now(), go_on=go_on))

    async def abort(self, number: int) -> Rollout:
        """Offer nothing more, for good."""
        return await self._changed(number, lambda rollout: rollout.aborted(self._clock.now()))

    async def _changed(self, number: int, change: Callable[[Rollout], Rollout]) -> Rollout:
        async with self._changing:
            rollout = change(self.rollout(number))
            await self._keep(rollout)
        for device in rollout.devices:
            self._offered.pop(device, None)
            if rollout.state != RUNNING and self.told(device).state == "fetching":
                self._offer(device)  # nothing, that is
        self._wake.set()
        return rollout

    def _device_changed(self, device: str) -> None:
        if device in self._turn:
            self._wake.set()
        if device not in self._registry and device in self._told:
            task = asyncio.ensure_future(self._forget(device))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    async def _forget(self, device: str) -> None:
        """Remove what is kept of a device that was removed; where that cannot be stored, it stays, to no harm."""
        with contextlib.suppress(StorageError):
            await self._journal.append([_gone(DEVICE + device)])
        self._told.pop(device, None)

    async def remove(self, release: str) -> None:
        """Remove a release that no roll-out is about."""
        async with self._changing:
            for rollout in self._rollouts.values():
                if rollout.release == release and rollout.state in OPEN:
                    hint = f"edge ota abort {rollout.number}"
                    raise EdgeError(f"the roll-out {rollout.number} is about it", hint=hint)
            await asyncio.to_thread(self.store.remove, release)

    # What there is

    def rollout(self, number: int) -> Rollout:
        """A roll-out by its number; 0 for the newest. Raises NotFound."""
        found = self._rollouts.get(number or max(self._rollouts, default=0))
        if found is None:
            what = f"there is no roll-out {number}" if number else "there was no roll-out yet"
            raise NotFound(what, hint="See: edge ota status")
        return found

    def rollouts(self) -> list[Rollout]:
        """All that are remembered, the newest first."""
        return sorted(self._rollouts.values(), key=lambda r: -r.number)

    def told(self, device: str) -> Told:
        """What a device has last reported."""
        return self._told.get(device, Told(0))

    def reported(self) -> dict[str, Told]:
        """The same of all that ever did."""
        return self._told

    def stand(self, rollout: Rollout, device: str) -> Stand:
        """Where a device is in a roll-out."""
        if device not in self._registry:
            return Stand.REMOVED
        return rollout.stand(device, self._told.get(device))

    def stands(self, rollout: Rollout) -> list[tuple[str, Stand]]:
        """The same of all its devices."""
        known = self._registry
        return [(device, stand if device in known else Stand.REMOVED) for device, stand in rollout.stands(self._told)]

    async def _keep(self, rollout: Rollout) -> None:
        await self._journal.append([_change(f"{ROLLOUT}{rollout.number}", rollout)])
        self._rollouts[rollout.number] = rollout
        self._take_turns()

    def _take_turns(self) -> None:
        self._turn = {d: r.number for r in self._rollouts.values() if r.state == RUNNING for d in r.allowed}


def _change(key: str, message: msgspec.Struct) -> StateChange:
    return StateChange(KEPT, key, {"": (msgspec.json.encode(message).decode(), 0)}, {})


def _gone(key: str) -> StateChange:
    return StateChange(KEPT, key, {"": None}, {})


def _nobody(_device: str, _word: str, _payload: bytes) -> bool:
    return False
