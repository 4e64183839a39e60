"""OSCORE (RFC 8613): which security context a protected request belongs to, and how far its numbers have come.

The secrets are the registry's. What has to outlive a restart, the sender sequence number, lies in a folder for each
context; the replay window is not written for each request: after an unclean end the peer shows that it is fresh (Echo,
appendix B.1.2).
"""

from __future__ import annotations

import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from aiocoap import oscore
from aiocoap.credentials import CredentialsMap

from devices.keys import OscoreContext

MAX_OPEN = 1024
"""Contexts held ready; beyond them the one not used for longest is put away, which costs it a write."""

Tell = Callable[[str, str], None]
"""Is told of a device's request that could not be opened, and why."""

Find = Callable[[bytes], tuple[str, OscoreContext] | None]
"""The device and context for a `kid`; None where there is none that may be used now."""


class Contexts(CredentialsMap):  # type: ignore[misc]  # aiocoap has no types
    """The security contexts, as aiocoap's `OscoreSiteWrapper` asks for them."""

    def __init__(self, folder: Path, find: Find, tell: Tell) -> None:
        super().__init__()
        self._tell = tell
        self._folder = folder
        self._find = find
        self._open: OrderedDict[str, Any] = OrderedDict()
        if folder.is_dir():
            for left in folder.glob("*.new"):
                shutil.rmtree(left)

    def find_oscore(self, unprotected: dict[Any, Any]) -> Any:
        """The context for a request's header. Raises KeyError."""
        kid = unprotected.get(oscore.COSE_KID)
        found = self._find(kid) if isinstance(kid, bytes) else None
        if found is None:
            raise KeyError
        device, secrets = found
        if unprotected.get(oscore.COSE_KID_CONTEXT, secrets.id_context) != secrets.id_context:
            raise KeyError
        name = sha256(secrets.encode()).hexdigest()[:32]
        context = self._open.get(name)
        if context is None:
            context = self._open[name] = _context(self._folder / name, secrets, partial(self._tell, device))
            if len(self._open) > MAX_OPEN:
                _put_away(self._open.popitem(last=False)[1])
        self._open.move_to_end(name)
        context.authenticated_claims = [device]
        return context

    def close(self) -> None:
        """Write down how far all have come."""
        while self._open:
            _put_away(self._open.popitem()[1])


def _put_away(context: Any) -> None:
    context._destroy()  # aiocoap names no other way to write the replay window and free the lock


class _Context(oscore.FilesystemSecurityContext):  # type: ignore[misc]  # aiocoap has no types
    """A context that says so when a request cannot be opened: aiocoap only answers it."""

    def __init__(self, folder: str, tell: Callable[[str], None]) -> None:
        self._tell_why = tell
        super().__init__(folder)

    def unprotect(self, protected_message: Any, request_id: Any = None) -> Any:
        """As aiocoap has it."""
        try:
            return super().unprotect(protected_message, request_id)
        except oscore.ReplayErrorWithEcho:
            raise  # not known to be one: after an unclean end the peer is asked to show that it is fresh
        except oscore.ReplayError:
            self._tell_why("a request came again, or too late")
            raise
        except oscore.ProtectionInvalid:
            self._tell_why("a request could not be decrypted with its key")
            raise


def _context(folder: Path, secrets: OscoreContext, tell: Callable[[str], None]) -> Any:
    if not folder.is_dir():
        new = folder.with_name(folder.name + ".new")
        new.mkdir(mode=0o700, parents=True)
        settings = {
            "secret_hex": secrets.master_secret.hex(),
            "salt_hex": secrets.master_salt.hex(),
            "sender-id_hex": secrets.sender_id.hex(),
            "recipient-id_hex": secrets.recipient_id.hex(),
        }
        if secrets.id_context is not None:
            settings["id-context_hex"] = secrets.id_context.hex()
        with open(os.open(new / "secret.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(settings, file)
            file.flush()
            os.fsync(file.fileno())
        new.rename(folder)
    return _Context(str(folder), tell)
