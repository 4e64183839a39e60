"""The files in the app's folder that are not Python, for reading."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any


class Files:
    """`ctx.files`: the app's own files, by their path in its folder (`App(..., grants=["files"])`)."""

    def __init__(self, contents: dict[str, str]) -> None:
        self._contents = contents

    def bytes(self, path: str) -> bytes:
        """A file's content. Raises `FileNotFoundError`."""
        try:
            return base64.b64decode(self._contents[path])
        except KeyError:
            close = get_close_matches(path, self._contents, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise FileNotFoundError(f"the app has no file {path!r}{hint}") from None

    def text(self, path: str) -> str:
        """A file's content as UTF-8 text."""
        return self.bytes(path).decode()

    def json(self, path: str) -> Any:
        """A file's content as JSON."""
        return json.loads(self.bytes(path))

    def __contains__(self, path: object) -> bool:
        return path in self._contents

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents)

    def __len__(self) -> int:
        return len(self._contents)
