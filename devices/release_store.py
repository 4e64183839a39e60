"""Releases in the gateway's data folder, by their content: files under their SHA-256, releases under their id.

Nothing in it is ever changed: a file is written beside its place, made durable, and moved there. So a release that
stands there is whole, whatever happened while it was taken in, and the journal need not know of it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import msgspec

from devices import release_keys, releases
from devices.releases import Manifest, digest_of
from edge_runtime.errors import EdgeError, NotFound, nearest

AT_HAND = 8 << 20
"""Bytes of files kept in memory while boards ask for them."""


class Package(msgspec.Struct, forbid_unknown_fields=True):
    """A release on its way: from the command line, or from one gateway to another."""

    manifest: bytes
    files: dict[str, bytes]
    """By their SHA-256 in hex."""
    signature: bytes = b""
    """Empty: the gateway that takes it in is to sign it."""
    key: bytes = b""
    """The public key of the signature, DER."""


class Signed(msgspec.Struct, frozen=True):
    """How a release is kept, beside its files."""

    manifest: bytes
    signature: bytes
    key: bytes
    taken: int
    """When this gateway took it in."""


class Release(msgspec.Struct, frozen=True):
    """A release that this gateway has."""

    id: str
    """SHA-256 of its manifest, in hex."""
    manifest: Manifest
    signer: str
    """The name of the key that has signed it."""
    taken: int
    bytes: int
    """Of its manifest."""


_log = logging.getLogger("edge.ota")


class ReleaseStore:
    """The folder, made when the first release comes. Calls do file input and output, and take milliseconds.

    They may come from several threads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._releases: dict[str, Release] | None = None
        """Never changed: another one takes its place."""
        self._changing = threading.RLock()
        self._reading = threading.Lock()
        self._at_hand: OrderedDict[str, bytes] = OrderedDict()

    # Keys

    def own_public(self) -> bytes:
        """The gateway's own public key (DER), made the first time it is asked for."""
        with self._changing:  # two that are made at once would be two keys
            self._made("files", "releases", "trusted")
            key = release_keys.own_key(self._folder / "key.pem")
        return release_keys.sign(key, b"")[1]

    def trusted(self) -> dict[str, bytes]:
        """Whose releases are taken in, by the name of the key: our own and those that `trust` was given."""
        own = self.own_public()
        found = {release_keys.name_of(own): own}
        for path in sorted((self._folder / "trusted").glob("*.pem")):
            public = release_keys.read_public(path.read_bytes(), str(path))
            found[release_keys.name_of(public)] = public
        return found

    def trust(self, pem: bytes) -> str:
        """Take in releases signed with this key from now on; returns its name."""
        public = release_keys.read_public(pem, "what was given")
        name = release_keys.name_of(public)
        self._made("trusted")
        _write(self._folder / "trusted" / f"{name}.pem", release_keys.public_pem(public).encode())
        return name

    def distrust(self, name: str) -> None:
        """Take in no more releases signed with this key; those that are there stay."""
        path = self._folder / "trusted" / f"{name}.pem"
        if not releases.NAME.fullmatch(name) or not path.exists():
            raise NotFound(f"no key '{name[:40]}' was given", hint=nearest(name, self.trusted()))
        path.unlink()

    # Releases

    def all(self) -> list[Release]:
        """All releases, by name and version."""
        found = self._known()
        return sorted(found.values(), key=lambda r: (r.manifest.name, r.manifest.version, r.taken))

    def find(self, name: str, version: str = "") -> Release:
        """A release by name and version (the newest where that is empty), or by the beginning of its id."""
        named = [r for r in self._known().values() if r.manifest.name == name and version in ("", r.manifest.version)]
        if named:
            return max(named, key=lambda r: r.taken)
        begun = [r for r in self._known().values() if len(name) >= 8 and r.id.startswith(name)]
        if len(begun) == 1 and not version:
            return begun[0]
        known = [f"{r.manifest.name} {r.manifest.version}" for r in self.all()]
        what = f"{name} {version}".strip()[:100]
        raise NotFound(
            f"there is no release '{what}'",
            hint=nearest(what, known) or "Make one: edge ota release PROGRAM --name NAME --version VERSION",
        )

    def get(self, release: str) -> Release | None:
        """A release by its id."""
        return self._known().get(release)

    def take_in(self, package: Package, now: int) -> Release:
        """Keep a release; one that is there already stays as it is. Raises EdgeError for one that is not to be kept.

        Without a signature it is signed here: whoever may do that may do anything here.
        """
        with self._changing:
            return self._take_in(package, now)

    def _take_in(self, package: Package, now: int) -> Release:
        manifest = releases.decode(package.manifest)
        identity = digest_of(package.manifest)
        known = self._known()
        for file in manifest.files:
            data = package.files.get(file.digest)
            if data is None or len(data) != file.size or digest_of(data) != file.digest:
                raise EdgeError(f"'{file.path}' is missing, or not what the manifest says", hint="Fetch it anew.")
        self._made("files", "releases", "trusted")
        if package.signature:
            release_keys.check(package.key, package.signature, package.manifest)
            signature, key = package.signature, package.key
            if release_keys.name_of(key) not in self.trusted():
                hint = "If it is to be trusted: edge ota trust FILE (the public key of who has signed it)."
                raise EdgeError(f"the release is signed with the key {release_keys.name_of(key)}, not ours", hint=hint)
        else:
            signature, key = release_keys.sign(release_keys.own_key(self._folder / "key.pem"), package.manifest)
        for other in known.values():
            if other.id == identity:
                continue
            if (other.manifest.name, other.manifest.version) == (manifest.name, manifest.version):
                hint = "Give this one another version: what a version is does not change."
                raise EdgeError(f"there is another {manifest.name} {manifest.version} ({other.id[:12]})", hint=hint)
        for digest in {file.digest for file in manifest.files}:
            path = self._folder / "files" / digest
            if not path.exists():
                _write(path, package.files[digest])
        if identity in known:  # a file of it may have been missing
            return known[identity]
        signed = Signed(package.manifest, signature, key, now)
        _write(self._folder / "releases" / f"{identity}.json", msgspec.json.encode(signed))
        made = _release(identity, signed)
        self._releases = known | {identity: made}
        return made

    def package(self, release: str) -> Package:
        """A release to take elsewhere."""
        signed = self._signed(release)
        files = {file.digest: self.file(file.digest) for file in releases.decode(signed.manifest).files}
        return Package(signed.manifest, files, signed.signature, signed.key)

    def remove(self, release: str) -> None:
        """Remove a release, and the files that no other one has. Raises NotFound."""
        with self._changing:
            left = dict(self._known())
            gone = left.pop(release, None)
            if gone is None:
                raise NotFound("there is no such release", hint="See: edge ota list")
            self._releases = left
            (self._folder / "releases" / f"{release}.json").unlink(missing_ok=True)
            kept = {file.digest for other in left.values() for file in other.manifest.files}
            for file in gone.manifest.files:
                if file.digest not in kept:
                    (self._folder / "files" / file.digest).unlink(missing_ok=True)
                    with self._reading:
                        self._at_hand.pop(file.digest, None)

    def content(self, release: str, digest: str) -> bytes:
        """A file of a release, or (where `digest` is the release's id) its manifest. Raises NotFound."""
        if digest == release:
            return self._signed(release).manifest
        found = self._known().get(release)
        if found is None or all(file.digest != digest for file in found.manifest.files):
            raise NotFound("there is no such file in the release")
        return self.file(digest)

    def file(self, digest: str) -> bytes:
        """A file by its SHA-256; raises EdgeError for one that the disk does not have any more as it was."""
        with self._reading:
            data = self._at_hand.get(digest)
            if data is None:
                data = self._read(digest)
                self._at_hand[digest] = data
                while len(self._at_hand) > 1 and sum(map(len, self._at_hand.values())) > AT_HAND:
                    self._at_hand.popitem(last=False)
            self._at_hand.move_to_end(digest)
            return data

    def _read(self, digest: str) -> bytes:
        path = self._folder / "files" / digest
        try:
            data = path.read_bytes()
        except OSError as error:
            raise EdgeError(f"{path} cannot be read: {error.strerror}") from None
        if digest_of(data) != digest:
            raise EdgeError(f"{path} is damaged", hint="Remove the file, and take the release in once more.")
        return data

    def _signed(self, release: str) -> Signed:
        path = self._folder / "releases" / f"{release}.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Signed)
        except (OSError, msgspec.MsgspecError) as error:
            raise EdgeError(f"{path} cannot be read: {error}") from None

    def _known(self) -> dict[str, Release]:
        if self._releases is None:
            found: dict[str, Release] = {}
            for path in sorted((self._folder / "releases").glob("*.json")):
                try:
                    signed = self._signed(path.stem)
                    release_keys.check(signed.key, signed.signature, signed.manifest)
                    found[path.stem] = _release(path.stem, signed)
                except EdgeError as error:
                    # The others are as good as before; this one can be taken in once more.
                    _log.error("a release is left out: %s", error)
            self._releases = found
        return self._releases

    def _made(self, *names: str) -> None:
        try:
            for name in names:
                (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EdgeError(f"{self._folder} cannot be written: {error.strerror}") from None


def new_package(files: Mapping[str, bytes], manifest: Manifest) -> Package:
    """A release as it is handed in, not signed yet; `files` are by their path on the board."""
    return Package(manifest.encode(), {digest_of(data): data for data in files.values()})


def _release(identity: str, signed: Signed) -> Release:
    manifest = releases.decode(signed.manifest)
    return Release(identity, manifest, release_keys.name_of(signed.key), signed.taken, len(signed.manifest))


def _write(path: Path, data: bytes) -> None:
    """Have a file with this content, or none: whole and durable when it is there."""
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise EdgeError(f"{path} cannot be written: {error.strerror}") from None
