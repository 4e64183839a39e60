"""The published wheel: whoever installs it gets functions running without a compiler, Node.js or a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(600)
def test_a_wheel_carries_its_guests_and_builds_nothing(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "tools/wheel.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    installed = tmp_path / "installed"
    with zipfile.ZipFile(built.stdout.strip()) as wheel:
        names = set(wheel.namelist())
        wheel.extractall(installed)
    assert {"edge/testing.py", "edge_runtime/journal/sqlite/schema/1.sql", "edge/py.typed"} < names
    assert not [name for name in names if name.startswith(("tests/", "bench/", "tools/")) or name.endswith(".cwasm")]
    tracked = subprocess.check_output(["git", "ls-files", "firmware"], cwd=ROOT, text=True).split()
    firmware = {f"devices/{name}" for name in tracked if name.endswith(".py") and (ROOT / name).exists()}
    assert "devices/firmware/edge_device/core.py" in firmware
    assert firmware < names
    flashed = 'from devices.flash import plan; print(plan.firmware_folder()); print(len(plan.files({"main.py": b""})))'
    found = subprocess.check_output(
        [sys.executable, "-c", flashed], cwd=tmp_path, env={"PYTHONPATH": str(installed)}, text=True
    ).split()
    assert found[0] == str(installed / "devices/firmware")
    assert int(found[1]) > 15
    # In front of the checkout, and with nothing on the PATH that could build.
    environment = {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": "/nowhere"}
    said = subprocess.run(
        [sys.executable, "-m", "edge_runtime.functions.sandbox.prepare"],
        cwd=tmp_path,
        env=environment | {"HOME": os.environ.get("HOME", "/")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert "building" not in said.stdout
    assert "fetching" not in said.stdout
    compiled = [path.name for path in (tmp_path / "cache" / "edge-runtime").glob("*.cwasm")]
    assert len(compiled) == 2, said.stdout


MACHINES = ("edge_runtime.proto.mqtt.server", "edge_runtime.streams.engine")
TESTS = ("tests/proto/test_mqtt_5.py", "tests/proto/test_mqtt_machine.py", "tests/streams")


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    shutil.which("cc") is None or not Path(sysconfig.get_path("include"), "Python.h").exists(),
    reason="no C compiler, or no headers of this Python",
)
def test_compiled_machines_pass_the_tests_of_those_that_are_not(tmp_path: Path) -> None:
    command = [sys.executable, "tools/wheel.py", "--compiled", str(tmp_path / "dist")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    place = tmp_path / "installed"
    with zipfile.ZipFile(built.stdout.split()[-1]) as wheel:
        wheel.extractall(place)
    shutil.copytree(ROOT / "tests", place / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", place / "pyproject.toml")
    # Started there, Python finds what is there before the checkout.
    ask = f"import importlib as i; print([i.import_module(name).__file__ for name in {MACHINES}])"
    found = subprocess.check_output([sys.executable, "-c", ask], cwd=place, text=True)
    assert found.count(f"'{place}/") == found.count(".so'") == len(MACHINES), found
    tested = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    ran = subprocess.run(tested, cwd=place, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
