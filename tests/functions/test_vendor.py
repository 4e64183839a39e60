"""The packages of an app: wheels made here, found in a folder; no index is asked."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.errors import DeployError
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.functions.sources import Files, read_files
from edge_runtime.functions.vendor import GUEST_PYTHON, with_packages
from edge_runtime.manifest import FunctionRef

from .conftest import event, ok

MAIN = """
import sys
from edge import App
import greeting.words
app = App("vendored")

@app.route("climate", to="x")
def f(event):
    return [greeting.words.HELLO, "%d.%d" % sys.version_info[:2]]
"""
GREETING = {"greeting/__init__.py": "", "greeting/words.py": "HELLO = 'hello'\n", "greeting/data.json": "{}"}


def wheel(
    folder: Path, name: str, files: dict[str, str], version: str = "1.0", tag: str = "py3-none-any", **meta: str
) -> str:
    """Make a wheel; answers its SHA-256."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {value}\n" for value in meta.values())
    contents = dict(files)
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    contents[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n"
    record = ""
    for inside, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{inside},sha256={digest},{len(text.encode())}\n"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in contents.items():
            archive.writestr(inside, text)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Workshop:
    """An app's folder, a folder of wheels, and how often pip had to be asked."""

    def __init__(self, folder: Path) -> None:
        self.app = folder / "app"
        self.wheels = folder / "wheels"
        self.kept = folder / "cache"
        self.asked = 0
        self.now = 1_800_000_000_000_000
        self.app.mkdir()
        self.wheels.mkdir()
        (self.app / "main.py").write_text(MAIN)

    def packages(self, requirements: str, *, upgrade: bool = False) -> Files:
        (self.app / "requirements.txt").write_text(requirements)
        files = with_packages(read_files(self.app), self.app, self._say, now=self.now, upgrade=upgrade, kept=self.kept)
        return {path: text for path, text in files.items() if path.startswith(".packages/")}

    def _say(self, _: str) -> None:
        self.asked += 1


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    made = Workshop(tmp_path)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.wheels))
    return made


def test_plain_packages_become_part_of_the_app(workshop: Workshop) -> None:
    wheel(workshop.wheels, "greeting", GREETING)
    wheel(workshop.wheels, "hall", {"hall.py": "", "hall/__pycache__/x.pyc": ""}, needs="greeting>=1")
    found = workshop.packages("hall  # and what it needs\n")
    assert found == {
        ".packages/greeting/__init__.py": b"",
        ".packages/greeting/words.py": b"HELLO = 'hello'\n",
        ".packages/hall.py": b"",
    }


async def test_they_are_imported_in_the_sandbox(workshop: Workshop, platform: FunctionPlatform) -> None:
    wheel(workshop.wheels, "greeting", GREETING)
    workshop.packages("greeting==1.0")
    files = with_packages(read_files(workshop.app), workshop.app, print, now=0, kept=workshop.kept)
    checked = await platform.check(files)
    await platform.store(checked)
    await platform.load("vendored", checked.version)
    [outcome] = await platform.invoke(FunctionRef("vendored", checked.version, "f"), [event()])
    assert ok(outcome).value == ["hello", GUEST_PYTHON], "and packages are chosen for the Python that runs them"
    without = {path: text for path, text in checked.content.files.items() if "words" not in path}
    with pytest.raises(DeployError, match=r"^main.py, line 4: ModuleNotFoundError"):
        await platform.check(without)


def test_the_same_requirements_are_fetched_once(workshop: Workshop) -> None:
    wheel(workshop.wheels, "greeting", GREETING)
    first = workshop.packages("greeting")
    wheel(workshop.wheels, "greeting", {"greeting/__init__.py": "newer"}, version="2.0")
    assert workshop.packages("greeting") == first
    assert workshop.asked == 1
    assert workshop.packages("greeting", upgrade=True) == {".packages/greeting/__init__.py": b"newer"}
    assert workshop.packages("greeting")[".packages/greeting/__init__.py"] == b"newer"
    assert workshop.asked == 2
    assert workshop.packages("greeting==1.0") == first
    assert workshop.asked == 3
    [kept, _] = (workshop.kept / "packages").glob("*.msgpack")
    assert kept.stat().st_mode & 0o077 == 0


def test_what_was_damaged_in_the_cache_is_fetched_again(workshop: Workshop) -> None:
    wheel(workshop.wheels, "greeting", GREETING)
    first = workshop.packages("greeting")
    [kept] = (workshop.kept / "packages").glob("*.msgpack")
    kept.write_bytes(b"\xc1")
    assert workshop.packages("greeting") == first
    assert workshop.asked == 2


def test_what_no_deploy_has_used_for_a_month_is_forgotten(workshop: Workshop) -> None:
    wheel(workshop.wheels, "greeting", GREETING)
    wheel(workshop.wheels, "hall", {"hall.py": ""})
    workshop.packages("greeting")
    workshop.packages("hall")
    day = 86_400_000_000
    workshop.now += 20 * day
    workshop.packages("hall")
    workshop.now += 11 * day
    workshop.packages("greeting >= 1")  # fetches, and looks what is old
    assert workshop.asked == 3
    workshop.packages("hall")
    assert workshop.asked == 3
    workshop.packages("greeting")
    assert workshop.asked == 4


def test_requirements_that_refer_elsewhere_are_always_looked_at(workshop: Workshop) -> None:
    wheel(workshop.wheels, "greeting", GREETING)
    (workshop.app / "more.txt").write_text("greeting")
    for _ in range(2):
        assert len(workshop.packages("-r more.txt")) == 2
    assert workshop.asked == 2


@pytest.mark.parametrize("text", ["", "# nothing yet\n\n"])
def test_without_requirements_nobody_is_asked(workshop: Workshop, text: str) -> None:
    assert workshop.packages(text) == {}
    assert workshop.asked == 0


def test_pins_and_hashes_are_respected(workshop: Workshop) -> None:
    digest = wheel(workshop.wheels, "greeting", GREETING)
    wheel(workshop.wheels, "greeting", {"greeting/__init__.py": "newer"}, version="2.0")
    assert len(workshop.packages(f"greeting==1.0 --hash=sha256:{digest}")) == 2
    with pytest.raises(DeployError, match=r"^requirements.txt: greeting==1.0 does not have the hash"):
        workshop.packages(f"greeting==1.0 --hash=sha256:{'0' * 64}")


C_TAG = "cp314-cp314-manylinux_2_28_x86_64"


@pytest.mark.parametrize(
    ("make", "requirements", "says"),
    [
        (lambda f: wheel(f, "fastmath", {}, tag=C_TAG), "fastmath", "fastmath has parts that are not Python"),
        (lambda f: wheel(f, "fast_math", {}, tag=C_TAG), "Fast-Math>=1", "Fast-Math has parts that are not Python"),
        (
            lambda f: (wheel(f, "fastmath", {}, tag=C_TAG), wheel(f, "plain", {}, needs="fastmath")),
            "plain",
            r"fastmath \(needed by plain\) has parts that are not Python",
        ),
        (lambda f: wheel(f, "sly", {"sly/_core.abi3.so": ""}), "sly", "sly has parts that are not Python"),
        (
            lambda f: wheel(f, "greeting", GREETING),
            "greeting==9",
            "there is no greeting==9 .*; the newest greeting is 1.0",
        ),
        (lambda f: (f / "old-1.0.tar.gz").write_bytes(b""), "old", "old is published as source only"),
        (lambda _: None, "greeetings", "there is no package greeetings"),
        (lambda _: None, "==1", "Invalid requirement: '==1'"),
        (lambda _: None, "-r gone.txt", "gone.txt"),
    ],
)
def test_what_pip_complains_of_is_one_sentence(
    workshop: Workshop, make: Callable[[Path], object], requirements: str, says: str
) -> None:
    make(workshop.wheels)
    with pytest.raises(DeployError, match=rf"^requirements.txt: .*{says}") as raised:
        workshop.packages(requirements)
    assert "\n" not in str(raised.value)
    assert ("native tier" in raised.value.hint) == ("not Python" in says)


def test_without_a_network_that_is_said(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(DeployError, match="the package index cannot be reached to look for greeting"):
        workshop.packages("greeting")
    assert workshop.kept.exists()
    assert not list((workshop.kept / "packages").glob("*")), "a failure is not remembered"


def test_a_module_of_the_app_does_not_get_in_the_way_of_pip(workshop: Workshop) -> None:
    wheel(workshop.wheels, "greeting", GREETING)
    (workshop.app / "urllib3.py").write_text("1 / 0")
    (workshop.app / "pip.py").write_text("1 / 0")
    assert len(workshop.packages("greeting")) == 2


def test_other_languages_have_no_packages(workshop: Workshop) -> None:
    (workshop.app / "main.py").rename(workshop.app / "main.js")
    assert workshop.packages("greeting") == {}
