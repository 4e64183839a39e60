"""Secrets on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import EdgeError, NotFound
from edge_runtime.functions.secrets import Secrets


def test_a_secret_lasts_in_a_file_of_ours_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    secrets = Secrets(folder)
    secrets.set("weather-key", "s3cret\nline")
    secrets.set("weather-key", "n3w\r\n")
    assert (folder / "weather-key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    again = Secrets(folder)
    assert (again.get("weather-key"), again.names(), again.get("other")) == ("n3w\r\n", ["weather-key"], None)
    again.remove("weather-key")
    assert Secrets(folder).names() == []
    with pytest.raises(NotFound):
        again.remove("weather-key")


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a b", "x" * 65, "a.new"])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EdgeError, match="not a secret's name"):
        Secrets(tmp_path).set(name, "x")


@pytest.mark.parametrize("value", ["", "x" * 20_000])
def test_a_bad_value_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(EdgeError, match="1 to 16384 bytes"):
        Secrets(tmp_path).set("a", value)


def test_a_secret_that_others_can_read_stops_the_start(tmp_path: Path) -> None:
    Secrets(tmp_path).set("a", "x")
    (tmp_path / "a").chmod(0o644)
    with pytest.raises(EdgeError, match="not a file of ours alone") as refused:
        Secrets(tmp_path)
    assert "chmod 600" in refused.value.hint


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("x")
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EdgeError, match="cannot be read"):
        Secrets(folder)
