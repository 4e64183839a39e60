"""The spool, and updates, on the file system that boards have, inside the real MicroPython."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from hil.board import firmware_folder
from hil.script import installed, run_script


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A board's file system with the firmware and the flash of `on_board/littlefs.py`."""
    if not installed("unix"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no unix MicroPython: requirements/micropython.txt")
    shutil.copytree(firmware_folder() / "edge_device", tmp_path / "lib" / "edge_device")
    shutil.copyfile(firmware_folder() / "loader" / "edge_boot.py", tmp_path / "lib" / "edge_boot.py")
    for name in ("littlefs.py", "ota_littlefs.py"):
        shutil.copyfile(Path(__file__).parent / "on_board" / name, tmp_path / "lib" / name)
    return tmp_path


def test_the_power_may_go_at_any_operation_of_a_real_littlefs(folder: Path) -> None:
    output = run_script("unix", folder, "import littlefs\nlittlefs.cuts(0, 5)\n", heap="8m")
    found = re.search(r"^cuts (\d+)$", output, re.MULTILINE)
    assert found, output
    assert int(found[1]) > 50


def test_the_power_may_go_at_any_operation_of_an_update_on_a_real_littlefs(folder: Path) -> None:
    output = run_script("unix", folder, "import ota_littlefs\nota_littlefs.cuts(0, 6)\n", heap="8m")
    found = re.search(r"^cuts (\d+)$", output, re.MULTILINE)
    assert found, output
    assert int(found[1]) > 35


def test_readings_stored_together_wear_the_flash_less(folder: Path) -> None:
    script = "import littlefs\nlittlefs.wear(1, 240)\nlittlefs.wear(12, 240)\n"
    output = run_script("unix", folder, script, heap="8m")
    one, twelve = ([float(each) for each in line.split()[2:]] for line in output.splitlines() if line[:4] == "wear")
    assert one[0] < 80
    assert twelve[0] < 80
    assert twelve[3] < one[3] / 5
