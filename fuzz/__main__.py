"""`python -m fuzz [CODEC ...]`: tries the codecs, each for FUZZ_SECONDS (60), and shows the inputs that failed."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from fuzz.codecs import CODECS

FOLDER = Path(".fuzz")
"""Inputs that reached something new, for the next time; those that failed; and each codec's log."""
_TRIED = re.compile(r"stat::number_of_executed_units: *(\d+)")


def main(names: list[str]) -> int:
    """The status for the shell: 1 if an input failed, 2 for a mistake in the arguments."""
    setting = os.environ.get("FUZZ_SECONDS", "60")
    unknown = [name for name in names if name not in CODECS]
    if unknown or not setting.isdecimal() or not int(setting):
        what = f"there is no codec '{unknown[0]}'" if unknown else f"FUZZ_SECONDS={setting} is no number of seconds"
        print(f"{what}. Codecs: {', '.join(CODECS)}", file=sys.stderr)
        return 2
    if importlib.util.find_spec("atheris") is None:
        print("atheris has no wheel for this Python, or is not installed (pip install 'edge-runtime[fuzz]'):")
        print("Hypothesis tries instead, which does not see what its inputs reach.")
    failed = [name for name in names or CODECS if not _try(name, int(setting))]
    return 1 if failed else 0


def _try(name: str, seconds: int) -> bool:
    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.glob("*-*"))
    print(f"{name:18}", end="", flush=True)
    log = folder / "log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "fuzz.one", name, str(seconds), str(folder)]
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output).returncode
    text = log.read_text(errors="replace")
    tried = _TRIED.search(text)
    print(f"{int(tried[1]) if tried else 0:>10} inputs, {'nothing found' if not status else 'FAILED'}", flush=True)
    if status:
        print("\n".join(text.splitlines()[-25:]))
        for path in sorted(set(folder.glob("*-*")) - before):
            print(f"the input: {path}: {path.read_bytes().hex()}")
    return not status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
