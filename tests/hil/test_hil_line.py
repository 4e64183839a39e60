"""What a faulty line keeps of what its board has sent."""

from __future__ import annotations

import os
from pathlib import Path

from hil.faulty_line import FaultyLine
from hil.waiting import until


async def test_what_a_board_has_sent_is_kept_as_it_left_it(tmp_path: Path) -> None:
    line = FaultyLine(tmp_path / "tty")
    line.cut = True
    try:
        first = os.write(line.board, b"\0\x07\x11\x01\0Traceback (most recent call last):\r\n\0\x02\0")
        await until(lambda: line.heard == first, "all is heard, though nothing gets through")
        assert line.text() == "Traceback (most recent call last):\r\n"
        os.write(line.board, b"more")
        await until(lambda: line.since(first) == b"more", "the rest is told apart")
        assert line.since(first + 4) == b""
        os.write(line.board, bytes(3000))
        await until(lambda: line.heard == first + 3004, "all is heard")
        os.write(line.board, bytes(3000))
        await until(lambda: line.heard == first + 6004, "all is heard")
        assert len(line.since(0)) == len(line.said) == 4096
    finally:
        await line.stop()
