"""`python -m fuzz.one CODEC SECONDS FOLDER`: one codec in a process of its own, for libFuzzer ends its process."""

from __future__ import annotations

import importlib.util
import resource
import sys
import time
from pathlib import Path

MEMORY = 512
"""MiB that the process may take; a codec that needs more has failed."""
LONGEST = 4096
"""Bytes of an input at most."""
SLOW = 5
"""Seconds that one input may take."""


def main(name: str, seconds: int, folder: Path) -> None:
    """Try inputs until the time is up; what fails is left in `folder` as `crash-...`, and its end is not 0."""
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("atheris") is not None:
        _by_coverage(name, seconds, folder)
    else:
        resource.setrlimit(resource.RLIMIT_AS, (2 * MEMORY << 20, 2 * MEMORY << 20))
        _by_examples(name, seconds, folder)


def _by_coverage(name: str, seconds: int, folder: Path) -> None:
    import atheris

    with atheris.instrument_imports(include=["edge_runtime", "wsproto", "h11"]):
        from fuzz.codecs import CODECS
    one, seeds = CODECS[name]
    for index, seed in enumerate(seeds):
        (folder / "corpus" / f"seed-{index}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-rss_limit_mb={MEMORY}",
        f"-timeout={SLOW}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], one)
    atheris.Fuzz()


def _by_examples(name: str, seconds: int, folder: Path) -> None:
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis.strategies import binary, builds, integers, lists, sampled_from, tuples

    from fuzz.codecs import CODECS

    one, seeds = CODECS[name]
    until = time.monotonic() + seconds
    rounds = settings(
        max_examples=500,  # a round is not ended by the clock
        deadline=SLOW * 1_000,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    known = lists(sampled_from(seeds), min_size=1, max_size=4).map(b"".join)
    changes = lists(tuples(integers(0, LONGEST), integers(0, 4), binary(max_size=4)), max_size=6)
    inputs = builds(_changed, known, changes) | binary(max_size=LONGEST)
    tried, last = 0, b""

    def attempt(data: bytes) -> None:
        nonlocal tried, last
        tried, last = tried + 1, data
        one(data)

    while time.monotonic() < until:
        try:
            seed(tried)(rounds(given(inputs)(attempt)))()
        except Exception:
            (folder / "crash-hypothesis").write_bytes(last)
            raise
    print(f"stat::number_of_executed_units: {tried}", file=sys.stderr)


def _changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """With so many bytes at each place replaced by others."""
    for place, length, others in changes:
        at = place % (len(data) + 1)
        data = data[:at] + others + data[at + length :]
    return data[:LONGEST]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
