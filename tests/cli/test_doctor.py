from __future__ import annotations

from pathlib import Path

from edge_runtime.cli.doctor import examine

NATIVE = """
[apps.missing]
tier = "native"
preload = ["json", "no_such_module.part"]
[apps.idle]
preload = ["json"]
[apps.fine]
tier = "native"
preload = ["json"]
"""


def test_apps_of_the_native_tier_are_named_with_what_they_miss(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(NATIVE)
    found = {finding.what: finding for finding in examine(path) if finding.what.startswith("app ")}
    assert {what: finding.ok for what, finding in found.items()} == {
        "app missing": False,
        "app idle": False,
        "app fine": True,
    }
    assert found["app missing"].found == "no_such_module.part of its 'preload' cannot be found"
    assert "pip install" in found["app missing"].advice
    assert "which only the native tier knows" in found["app idle"].found
    assert "the kernel alone" in found["app fine"].found
