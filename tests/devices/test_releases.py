"""Releases: what a manifest can be, who has signed it, and what a store keeps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import assume, given
from hypothesis import strategies as st

from devices import release_keys, releases
from devices.release_store import Package, ReleaseStore, new_package
from edge_runtime.errors import EdgeError, NotFound

FILES = {"main.py": b"print(1)\n", "lib/fan.py": b"on = True\n", "lib/empty.py": b""}
PIECES = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}\Z")


def package(version: str = "1.0", files: dict[str, bytes] = FILES) -> Package:
    return new_package(files, releases.manifest_of("greenhouse", version, files))


def pem_of(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, version: str = "1.0") -> Package:
    made = package(version)
    made.signature, made.key = release_keys.sign(key, made.manifest)
    return made


@given(
    st.lists(st.lists(PIECES, min_size=1, max_size=3).map("/".join), unique=True, max_size=8), st.binary(max_size=99)
)
def test_a_manifest_is_read_as_it_was_written(paths: list[str], data: bytes) -> None:
    files = {"main.py": b""} | dict.fromkeys(paths, data)
    names = {"/".join(part.rstrip(".") for part in path.lower().split("/")) for path in files}
    folders = {name[:at] for name in names for at, char in enumerate(name) if char == "/"}
    assume(len(names) == len(files) and not folders & names)
    made = releases.manifest_of("greenhouse", "1.2", files, boards=["rp2"], micropython="1.22.1")
    assert releases.decode(made.encode()) == made


@pytest.mark.parametrize(
    "path",
    ["", "/main.py", "../x", "a/../b", "a//b", ".hidden", "lib/.x", "-x", "a b", "a\nfile 0 0 b", "ü", "a" * 101],
)
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(EdgeError, match="cannot be a path on a board"):
        releases.manifest_of("greenhouse", "1", {"main.py": b"", path: b""})


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("lib/Fan.py", "lib/fan.py", "'lib/Fan.py' and 'lib/fan.py' are the same file to some boards"),
        ("main.py.", "main.py", "'main.py' and 'main.py.' are the same"),
        ("LIB", "lib/fan.py", "'LIB' is a file and a folder"),
    ],
)
def test_names_that_fat_does_not_tell_apart(one: str, other: str, why: str) -> None:
    """A board would write the one over the other, and start a version that is none."""
    with pytest.raises(EdgeError, match=why):
        releases.manifest_of("greenhouse", "1", {"main.py": b"", one: b"1", other: b"2"})


def test_what_is_no_release() -> None:
    for files, why in (
        ({"app.py": b""}, "without main.py"),
        ({"main.py": b"", "lib": b"", "lib/x.py": b""}, "'lib' is a file and a folder"),
        ({"main.py": bytes(releases.MAX_SIZE + 1)}, "KiB"),
        ({"main.py": b""} | {f"f{n}": b"" for n in range(200)}, "201 files"),
    ):
        with pytest.raises(EdgeError, match=why):
            releases.manifest_of("greenhouse", "1", files)
    for name, version in (("", "1"), ("a b", "1"), ("a", ""), ("a", "1\nfile")):
        with pytest.raises(EdgeError, match="cannot be the"):
            releases.manifest_of(name, version, FILES)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("edge-release 1", "edge-release 2"),
        lambda text: text + "more\n",
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("name greenhouse\n", ""),
        lambda text: text.replace("health 300 report", "health 300"),
        lambda text: text.replace(" 9 main.py", " 09 main.py"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.upper(),
        lambda text: text.replace("greenhouse", "grünhaus"),
    ],
)
def test_a_manifest_has_one_form(change: object) -> None:
    text = package().manifest.decode()
    changed = change(text)  # type: ignore[operator]
    assert changed != text
    with pytest.raises(EdgeError):
        releases.decode(changed.encode())


def test_a_folder_is_read_without_what_is_hidden(tmp_path: Path) -> None:
    for path in ("main.py", "lib/fan.py", "lib/__pycache__/fan.cpython.pyc", ".git/config", ".env"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    assert releases.read_folder(tmp_path) == {"main.py": b"main.py", "lib/fan.py": b"lib/fan.py"}
    with pytest.raises(EdgeError, match="is not a folder"):
        releases.read_folder(tmp_path / "main.py")


def test_a_release_is_kept_and_found(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "releases")
    assert store.all() == []
    with pytest.raises(NotFound, match="no release 'greenhouse'"):
        store.find("greenhouse")
    first = store.take_in(package("1.0"), 10)
    second = store.take_in(package("1.1", FILES | {"main.py": b"print(2)\n"}), 20)
    assert store.take_in(package("1.0"), 30) == first, "it is there already"
    assert (tmp_path / "releases/key.pem").stat().st_mode & 0o777 == 0o600
    for opened in (store, ReleaseStore(tmp_path / "releases")):
        assert opened.all() == [first, second]
        assert opened.find("greenhouse") == second
        assert opened.find("greenhouse", "1.0") == first
        assert opened.find(first.id[:10]) == first
        assert opened.content(first.id, first.id) == package("1.0").manifest
        assert opened.content(second.id, releases.digest_of(b"print(2)\n")) == b"print(2)\n"
        with pytest.raises(NotFound):
            opened.content(first.id, releases.digest_of(b"print(2)\n"))
    with pytest.raises(EdgeError, match=r"there is another greenhouse 1\.0"):
        store.take_in(package("1.0", FILES | {"main.py": b"other"}), 40)
    store.remove(second.id)
    assert ReleaseStore(tmp_path / "releases").all() == [first]
    assert len(list((tmp_path / "releases/files").iterdir())) == 3, "what the other one has stays"


def test_what_is_missing_or_another_is_not_taken_in(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "releases")
    lacking = package()
    del lacking.files[releases.digest_of(FILES["main.py"])]
    with pytest.raises(EdgeError, match=r"'main\.py' is missing"):
        store.take_in(lacking, 0)
    other = package()
    other.files[releases.digest_of(FILES["main.py"])] = b"print(2)\n"
    with pytest.raises(EdgeError, match=r"'main\.py' is missing, or not"):
        store.take_in(other, 0)
    assert store.all() == []


def test_threads_that_take_in_and_remove(tmp_path: Path) -> None:
    """What releases have in common stays as long as one of them does, and a version is made once."""
    store = ReleaseStore(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: store.own_public(), range(4)))) == 1
    store.take_in(package("1.0"), 1)
    shared = releases.digest_of(FILES["lib/fan.py"])

    def back_and_forth(number: int) -> None:
        for _ in range(20):
            made = store.take_in(package(f"2.{number}", FILES | {"main.py": b"%d" % number}), 1)
            assert store.content(made.id, shared) == FILES["lib/fan.py"]
            assert store.package(made.id).files.keys() >= {shared}
            store.remove(made.id)
            with pytest.raises(NotFound):
                store.remove(made.id)

    def same(number: int) -> bool:
        try:
            store.take_in(package("3.0", FILES | {"main.py": b"%d" % number}), 1)
        except EdgeError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(back_and_forth, range(4)))
        assert sum(pool.map(same, range(8))) == 1
    assert [release.manifest.version for release in ReleaseStore(tmp_path).all()] == ["1.0", "3.0"]


def test_a_file_that_has_changed_on_the_disk_is_not_sent(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path / "releases")
    release = store.take_in(package(), 0)
    digest = releases.digest_of(FILES["main.py"])
    (tmp_path / "releases/files" / digest).write_bytes(b"print(9)\n")
    with pytest.raises(EdgeError, match="is damaged"):
        store.content(release.id, digest)


def test_a_file_that_went_missing_comes_back_with_its_release(tmp_path: Path) -> None:
    """The hint about a damaged file says so: remove it, and take the release in once more."""
    release = ReleaseStore(tmp_path).take_in(package(), 1)
    digest = releases.digest_of(FILES["main.py"])
    (tmp_path / "files" / digest).unlink()
    store = ReleaseStore(tmp_path)
    assert store.take_in(package(), 2) == release
    assert store.content(release.id, digest) == FILES["main.py"]


@pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())])
def test_one_from_elsewhere(tmp_path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    store = ReleaseStore(tmp_path / "releases")
    with pytest.raises(EdgeError, match="not ours") as refused:
        store.take_in(signed(key), 0)
    assert "edge ota trust" in refused.value.hint
    name = store.trust(public_pem_of(key))
    release = store.take_in(signed(key), 0)
    assert release.signer == name
    there = ReleaseStore(tmp_path / "there")
    there.trust(public_pem_of(key))
    taken = msgspec.json.decode(msgspec.json.encode(store.package(release.id)), type=Package)
    assert there.take_in(taken, 5).id == release.id
    store.distrust(name)
    with pytest.raises(EdgeError, match="not ours"):
        store.take_in(signed(key, "1.1"), 0)
    assert store.all() == [release], "what was taken in stays"
    with pytest.raises(NotFound):
        store.distrust("../key")


def test_signatures_that_are_wrong(tmp_path: Path) -> None:
    key, other = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    store = ReleaseStore(tmp_path / "releases")
    store.trust(public_pem_of(key))
    store.trust(public_pem_of(other))
    swapped = signed(key)
    swapped.key = signed(other).key
    moved = signed(key)
    moved.signature = signed(key, "1.1").signature
    cut = signed(key)
    cut.signature = cut.signature[:-1]
    no_key = signed(key)
    no_key.key = b"no key"
    for wrong in (swapped, moved, cut, no_key):
        with pytest.raises(EdgeError, match="the signature of the release is not that of its manifest"):
            store.take_in(wrong, 0)
    assert store.all() == []


def test_keys_that_are_not_for_this() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curve = ec.generate_private_key(ec.SECP384R1())
    for key in (weak, curve):
        with pytest.raises(EdgeError, match="neither an Ed25519 nor a P-256 key"):
            release_keys.read_private(pem_of(key), "release.pem")
    with pytest.raises(EdgeError, match="neither an Ed25519 nor a P-256 key"):
        release_keys.read_public(public_pem_of(curve), "release.pub")
    for read in (release_keys.read_private, release_keys.read_public):
        with pytest.raises(EdgeError, match="in PEM form"):
            read(b"no key", "a file")


def test_a_link_that_leaves_the_folder_is_no_part_of_a_release(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    program = tmp_path / "program"
    program.mkdir()
    (program / "main.py").write_text("")
    (program / "also.py").symlink_to("main.py")
    assert set(releases.read_folder(program)) == {"main.py", "also.py"}
    (program / "x.py").symlink_to(tmp_path / "secret")
    with pytest.raises(EdgeError, match="outside the folder"):
        releases.read_folder(program)
