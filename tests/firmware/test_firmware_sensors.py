"""The checks of the sensors' drivers once more, under this Python: no MicroPython is needed to work on them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from hil.board import firmware_folder
from tests.firmware.test_firmware_on_board import checks

CHECKS = Path(__file__).parent / "on_board"


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(firmware_folder()))
    monkeypatch.syspath_prepend(str(CHECKS))
    yield
    for name in [name for name in sys.modules if name == "check_sensors" or name.startswith("edge_sensors")]:
        del sys.modules[name]


@pytest.mark.parametrize("check", checks("check_sensors"))
@pytest.mark.usefixtures("paths")
def test_under_cpython(check: str) -> None:
    getattr(import_module("check_sensors"), check)()
