"""The API's socket where something else is in its place."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import EdgeError
from edge_runtime.planes.api import _listen


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: the paths of sockets are limited."""
    with tempfile.TemporaryDirectory() as short:
        yield Path(short)


def test_a_folder_in_its_place_is_a_sentence(folder: Path) -> None:
    path = folder / "edge.sock"
    path.mkdir()
    with pytest.raises(EdgeError, match="cannot be made: it is a folder") as caught:
        _listen(path)
    assert "gateway.data" in caught.value.hint
    assert path.is_dir()


def test_a_folder_that_is_missing_is_a_sentence(folder: Path) -> None:
    with pytest.raises(EdgeError, match="cannot be made: No such file"):
        _listen(folder / "gone" / "edge.sock")


def test_what_a_gateway_that_is_gone_left_there_is_replaced(folder: Path) -> None:
    path = folder / "edge.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with _listen(path):
        assert path.is_socket()
        with pytest.raises(EdgeError, match="is running on"):
            _listen(path)
