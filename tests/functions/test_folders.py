"""Apps of several files: imported from memory as they would be from a disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from edge._load import Loaded, LoadError, load
from edge._modules import Modules

from edge_runtime.errors import DeployError
from edge_runtime.functions.platform import FunctionPlatform
from edge_runtime.manifest import FunctionRef

from .conftest import event, failed, ok

MAIN = """
from edge import App
from rules import limits
from rules.deep.scale import scaled
app = App("folder")

@app.route("climate", to="x")
def f(event):
    return [scaled(event.data["n"]), limits.HIGH]
"""
FILES = {
    "main.py": MAIN,
    "rules/__init__.py": "from . import limits\n",
    "rules/limits.py": "from .deep.scale import FACTOR\nHIGH = 30 * FACTOR\n",
    "rules/deep/scale.py": "FACTOR = 2\n\ndef scaled(value):\n    return value * FACTOR\n",
}
APP = "from edge import App\napp = App('x')\n@app.on('a')\ndef f(e): pass\n"


@pytest.fixture(autouse=True)
def _removed() -> Iterator[None]:
    yield
    for finder in [finder for finder in sys.meta_path if isinstance(finder, Modules)]:
        finder.remove()


def loaded(files: dict[str, str]) -> Loaded:
    return load(files, "main.py")


def test_modules_packages_and_folders_are_imported() -> None:
    app = loaded(FILES).app
    assert app.name == "folder"
    assert {"rules", "rules.deep", "rules.limits", "main"} <= set(sys.modules)
    assert sys.modules["rules.limits"].__file__ == "rules/limits.py"
    assert sys.modules["rules"].__spec__ is not None


def test_the_app_may_stand_in_any_of_the_modules() -> None:
    assert loaded({"main.py": "import other", "other.py": APP}).app.name == "x"
    both = {"main.py": APP + "import other\n", "other.py": "from main import app\n@app.on('b')\ndef g(e): pass\n"}
    assert list(loaded(both).app.triggers) == ["f", "g"]


def test_what_an_app_brought_before_is_gone() -> None:
    loaded({"main.py": APP + "import one_of_two\n", "one_of_two.py": ""})
    with pytest.raises(LoadError, match="No module named 'one_of_two'"):
        loaded({"main.py": APP + "import one_of_two\n"})
    assert loaded({"main.py": APP + "import rules\nassert rules.x == 1\n", "rules.py": "x = 1"})
    assert loaded({"main.py": APP + "import rules\nassert rules.x == 2\n", "rules.py": "x = 2"})
    assert sum(isinstance(finder, Modules) for finder in sys.meta_path) == 1


@pytest.mark.parametrize(
    "files",
    [
        {"rules.py": "x = 1", "rules/__init__.py": "x = 2"},
        {"rules/__init__.py": "x = 2", "rules.py": "x = 1"},
        {"rules/__init__.py": "x = 2", ".packages/rules/__init__.py": "x = 1"},
        {".packages/rules.py": "x = 1", "rules.py": "x = 2"},
        {".packages/rules/a.py": "", ".packages/rules.py": "x = 2"},
        {".packages/rules/a.py": "x = 2", ".packages/rules/__init__.py": "from .a import x"},
    ],
)
def test_what_comes_first(files: dict[str, str]) -> None:
    assert loaded({"main.py": APP + "import rules\nassert rules.x == 2, rules.x\n", **files})


def test_a_package_never_stands_for_the_standard_library() -> None:
    files = {".packages/json.py": "1 / 0", ".packages/edge/__init__.py": "1 / 0", ".packages/typing/x.py": "1 / 0"}
    assert loaded({"main.py": APP + "import json, typing\nassert json.dumps\n", **files})


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"json.py": ""}, "json.py: 'json' is a module of Python's standard library"),
        ({"queue/__init__.py": ""}, "queue/__init__.py: 'queue' is a module of Python's standard library"),
        ({"types/fan.py": ""}, "types/fan.py: 'types' is a module of Python's standard library"),
        ({"edge.py": ""}, "edge.py: 'edge' is a module of the gateway"),
        ({"main.py": APP + "import a", "a.py": "\n\n1 / 0"}, "a.py:3: ZeroDivisionError"),
        ({"main.py": APP + "import a.b", "a/b.py": "\ndef f(:\n"}, "a/b.py:2: invalid syntax: def f"),
        (
            {"main.py": APP + "import p", ".packages/p/__init__.py": "\nraise OSError(1)"},
            "packages/p/__init__.py:2: OSE",
        ),
        ({"main.py": APP + "import gone"}, "main.py:5: ModuleNotFoundError: No module named 'gone'"),
        ({"main.py": APP + "import a", "a.py": "import gone"}, "a.py:1: ModuleNotFoundError: No module named 'gone'"),
        ({"main.py": APP + "import a.b", "a.py": ""}, "main.py:5: ModuleNotFoundError: .*'a' is not a package"),
        ({"main.py": APP + "from a.b import c", "a/b.txt.py": ""}, "No module named 'a'"),
        ({"main.py": APP + "from . import a", "a.py": ""}, "main.py:5: ImportError: .*relative import"),
        ({"main.py": "import a", "a.py": "import b", "b.py": "from a import x"}, "b.py:1: ImportError: .*circular"),
        (
            {"main.py": APP + "import b", "b.py": APP.replace("'x'", "'y'")},
            r"main.py: 2 apps in one folder \('y' in b.py, 'x' in main.py\); one folder holds one app",
        ),
        ({"main.py": "import a", "a.py": "from edge import App\nb = App('b')\n"}, "main.py: the app 'b' has no func"),
        ({"main.py": "import a", "a.py": ""}, "main.py: no App found"),
    ],
)
def test_what_is_wrong_is_said_with_the_right_file_and_line(files: dict[str, str], says: str) -> None:
    with pytest.raises(LoadError, match=says):
        loaded({"main.py": APP, **files})


def on(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


async def live(platform: FunctionPlatform, folder: Path) -> FunctionRef:
    checked = await platform.check(folder)
    await platform.store(checked)
    await platform.load(checked.manifest.app, checked.version)
    return FunctionRef(checked.manifest.app, checked.version, "f")


async def test_a_folder_runs_in_the_sandbox(platform: FunctionPlatform, tmp_path: Path) -> None:
    ref = await live(platform, on(tmp_path / "app", {**FILES, "table.json": "{}", ".packages/x.py": "never sent"}))
    [outcome] = await platform.invoke(ref, [event({"n": 4})])
    assert ok(outcome).value == [8, 60]


async def test_modules_can_be_imported_when_a_function_runs(platform: FunctionPlatform, tmp_path: Path) -> None:
    body = (
        "@app.route('climate', to='x')\ndef f(e):\n    import late, stdlib, main\n    return [late.x, main.app.name]\n"
    )
    head = "from edge import App\napp = App('late')\n"
    files = {"main.py": head + body, "late.py": "x = 1 / 1", "stdlib.py": ""}
    ref = await live(platform, on(tmp_path / "app", files))
    outcomes = await platform.invoke(ref, [event(seq=1), event(seq=2)])
    assert [ok(outcome).value for outcome in outcomes] == [[1.0, "late"]] * 2


async def test_a_failure_names_the_lines_in_all_files(platform: FunctionPlatform, tmp_path: Path) -> None:
    ref = await live(platform, on(tmp_path / "app", FILES))
    [outcome] = await platform.invoke(ref, [event({"n": None})])
    assert failed(outcome).detail.endswith("<- rules/deep/scale.py, line 4, in scaled <- main.py, line 9, in f"), (
        failed(outcome).detail
    )


async def test_a_module_that_hides_another_is_refused_by_the_sandbox(platform: FunctionPlatform) -> None:
    with pytest.raises(DeployError, match=r"^statistics.py: 'statistics' is a module of Python's standard library"):
        await platform.check({"statistics.py": APP.encode()})
    with pytest.raises(DeployError, match=r"^lib/a.py, line 2: ZeroDivisionError"):
        await platform.check({"main.py": APP.encode() + b"import lib.a", "lib/a.py": b"\n1 / 0"})


def test_the_same_folder_is_tested_with_plain_pytest(tmp_path: Path) -> None:
    test = """
import pytest
from edge.testing import FunctionFailed, run
import main

def test_scaled():
    assert run(main.f, "climate", {"n": 4}).value == [8, 60]

def test_the_way_of_a_failure():
    with pytest.raises(FunctionFailed, match="scale.py, line 4, in scaled <- .*main.py, line 9, in f"):
        run(main.f, "climate", {"n": None})
"""
    folder = on(tmp_path, {**FILES, "test_main.py": test})
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stdout
    assert "2 passed" in ended.stdout
