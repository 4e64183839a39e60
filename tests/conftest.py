"""For all tests: no deadlines, and the examples in other languages, built as their READMEs say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from edge_runtime.functions.sandbox import cache, javascript
from edge_runtime.functions.sandbox.errors import GuestError

settings.register_profile("unhurried", parent=settings(), deadline=None)  # How busy the machine is, is no fault.
settings.load_profile("unhurried")

LANGUAGES = Path(__file__).parents[1] / "examples/languages"


@pytest.fixture(scope="session")
def c_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C example."""
    if shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        pytest.skip("clang and lld are not installed (make system)")
    built = tmp_path_factory.mktemp("c") / "greenhouse.wasm"
    subprocess.run([LANGUAGES / "c/build.sh", LANGUAGES / "c/greenhouse.c", built], check=True, timeout=60)
    return built


@pytest.fixture(scope="session")
def assemblyscript_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The AssemblyScript example, built in a copy of its folder."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed (make system)")
    work = tmp_path_factory.mktemp("assemblyscript") / "app"
    shutil.copytree(LANGUAGES / "assemblyscript", work, ignore=shutil.ignore_patterns("node_modules", "build"))
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=work, check=True, timeout=110)
    subprocess.run(["npm", "run", "--silent", "build"], cwd=work, check=True, timeout=110)
    return work / "build/greenhouse.wasm"


@pytest.fixture(scope="session")
def javascript_guest() -> Path:
    """The real guest for JavaScript, built with Node.js and compiled; cached between runs."""
    try:
        return javascript.prepared(cache.default_folder(), lambda *_: None)
    except GuestError as error:
        if "is not installed" in str(error) or "has to be built once" in str(error):
            pytest.skip(f"{error} (make system)")
        raise


@pytest.fixture(scope="session")
def javascript_module(javascript_guest: Path) -> Path:
    """The JavaScript example."""
    return LANGUAGES / "javascript/greenhouse.js"
