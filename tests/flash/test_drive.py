"""A folder with an INFO_UF2.TXT stands in for the RP2040's drive; what fails on it, the kernel makes fail."""

from __future__ import annotations

import os
import pty
import shutil
import threading
from pathlib import Path

import msgspec
import pytest

from devices.boards import ESP32_S3, PICO, PICO_W
from devices.flash import choose, drive, images, ports
from devices.flash.choose import Bench
from devices.flash.errors import FlashError, NoAnswer
from devices.flash.images import Image
from devices.flash.ports import Found
from devices.flash.prompt import Found as Answer
from devices.flash.prompt import Prompt
from edge_runtime.cli import flash
from tests.flash.conftest import Plug
from tests.flash.made import uf2_image

INFO = "UF2 Bootloader v3.0\nModel: Raspberry Pi RP2\nBoard-ID: RPI-RP2\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "RPI-RP2"
    made.mkdir()
    (made / "INFO_UF2.TXT").write_text(INFO)
    return made


@pytest.fixture
def image(tmp_path: Path) -> Image:
    path = tmp_path / "image.uf2"
    path.write_bytes(uf2_image(PICO_W, size=200_000))
    return images.read(path, PICO_W)


def test_an_image_is_copied(folder: Path, image: Image) -> None:
    parts: list[float] = []
    drive.write(folder, PICO_W, image, parts.append)
    assert (folder / "firmware.uf2").read_bytes() == image.data
    assert parts == sorted(parts)
    assert parts[-1] == 1
    assert len(parts) > 10


def test_all_files_go_if_that_is_asked_for(folder: Path, image: Image) -> None:
    """Copying an image leaves the files of a board as they are: what they stand in has to be written, too."""
    drive.write(folder, PICO_W, image, erase=True)
    whole = images.read(folder / "firmware.uf2", PICO_W)
    assert whole.content.startswith(image.content)
    used = -(-len(image.content) // 4096) * 4096
    assert len(whole.content) - len(image.content) == PICO_W.flash_bytes - used
    assert set(whole.content[len(image.content) :]) == {0xFF}
    assert PICO_W.flash_bytes - used > PICO_W.files_bytes


@pytest.mark.parametrize("erase", [False, True])
def test_files_of_a_pico_stay_unless_they_are_to_go(
    folder: Path, image: Image, erase: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(Found(folder, (PICO, PICO_W), drive=True), None)
    answers = msgspec.convert(
        {"name": "micropython", "version": [1, 27], "build": "", "platform": "rp2", "machine": "", "free": 0}
        | {"settings": ""},
        Answer,
    )

    def come(_board: object) -> Answer:
        bench.port = Path("/dev/ttyACM0")
        return answers

    monkeypatch.setattr(bench, "answers", come)
    flash._micropython(bench, PICO_W, image.path, erase, False, lambda step, part: None)
    assert ((folder / "firmware.uf2").read_bytes() == image.data) is not erase


def test_a_pico_that_does_not_answer_is_to_be_held(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_prompt: object) -> None:
        raise NoAnswer("nobody answers")

    monkeypatch.setattr(Prompt, "to_boot_loader", silent)
    bench = Bench(Found(Path("/dev/ttyACM0"), (PICO, PICO_W)), None)
    with pytest.raises(FlashError, match="nobody answers") as caught:
        bench.write(PICO_W, image, lambda part: None, erase=True)
    assert "BOOTSEL" in caught.value.hint


def test_another_drive_is_left_alone(folder: Path, image: Image) -> None:
    (folder / "INFO_UF2.TXT").write_text(INFO.replace("RPI-RP2", "nRF52840"))
    with pytest.raises(FlashError, match="is not the drive of a Raspberry Pi Pico W") as caught:
        drive.write(folder, PICO_W, image)
    assert "BOOTSEL" in caught.value.hint
    assert not (folder / "firmware.uf2").exists()


def test_a_full_drive(folder: Path, image: Image) -> None:
    (folder / "firmware.uf2").symlink_to("/dev/full")
    with pytest.raises(FlashError, match="is full"):
        drive.write(folder, PICO_W, image)


def test_a_drive_that_goes_midway_and_comes_back(folder: Path, image: Image) -> None:
    master, slave = pty.openpty()
    (folder / "firmware.uf2").symlink_to(os.ttyname(slave))

    def take() -> None:
        taken = 0
        while taken < 20_000:
            taken += len(os.read(master, 4096))
        os.close(master)  # whoever writes from now on has an input/output error, as on a drive that is gone

    taker = threading.Thread(target=take)
    taker.start()
    with pytest.raises(FlashError, match="was gone before all was written") as caught:
        drive.write(folder, PICO_W, image)
    taker.join()
    assert "BOOTSEL" in caught.value.hint
    os.close(slave)
    (folder / "firmware.uf2").unlink()
    drive.write(folder, PICO_W, image)
    assert (folder / "firmware.uf2").read_bytes() == image.data


def test_a_drive_that_was_never_there(tmp_path: Path, image: Image) -> None:
    with pytest.raises(FlashError, match="is not the drive"):
        drive.write(tmp_path / "none", PICO_W, image)


def test_a_drive_that_goes_when_all_is_written_is_a_board_that_starts(folder: Path, image: Image) -> None:
    def progress(part: float) -> None:
        if part == 1 and folder.exists():
            shutil.rmtree(folder)

    drive.write(folder, PICO_W, image, progress)


def test_what_is_connected(folder: Path, tmp_path: Path) -> None:
    class Port:
        def __init__(self, device: str, vid: int | None, pid: int | None, number: str | None) -> None:
            self.device, self.vid, self.pid, self.serial_number = device, vid, pid, number

    listed = [
        Port("/dev/ttyUSB0", 0x10C4, 0xEA60, "0001"),
        Port("/dev/ttyACM0", 0x2E8A, 0x0005, "e6605838"),
        Port("/dev/ttyS0", None, None, None),
        Port("/dev/ttyACM1", 0x2341, 0x0043, "an Arduino"),
    ]
    mounts = tmp_path / "mounts"
    spaced = folder.rename(tmp_path / "RPI RP2 of Jörg")
    mounts.write_text(
        f"/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 {str(spaced).replace(' ', chr(92) + '040')} vfat rw 0 0\n"
        f"/dev/sdc1 {tmp_path} vfat rw 0 0\n"
    )
    found = ports.find(lambda: listed, mounts)
    assert [str(each.where) for each in found] == ["/dev/ttyACM0", "/dev/ttyUSB0", str(spaced)]
    assert found[0].boards == (PICO, PICO_W)
    assert found[0].number == "e6605838"
    assert ESP32_S3 in found[1].boards
    assert found[2].drive
    assert "Pico W" in found[2].line
    assert ports.find(list, tmp_path / "none") == []


def test_two_boards_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [Found(Path("/dev/ttyACM0"), (PICO, PICO_W), "2e8a:0005", "a"), Found(Path("/dev/ttyUSB0"), (ESP32_S3,))]
    monkeypatch.setattr(flash, "find", lambda: two)
    with pytest.raises(FlashError, match="2 boards are connected") as caught:
        flash._chosen(None, None, True)
    assert "/dev/ttyACM0  2e8a:0005  Raspberry Pi Pico or" in str(caught.value)
    assert "--port" in caught.value.hint
    assert flash._chosen(Path("/dev/ttyUSB0"), None, False) is two[1]
    monkeypatch.setattr(flash, "find", lambda: two[:1])
    assert flash._chosen(None, None, False) is two[0]
    monkeypatch.setattr(flash, "find", list)
    with pytest.raises(FlashError, match="no board is connected"):
        flash._chosen(None, None, False)


def test_a_board_comes_back_under_another_name(monkeypatch: pytest.MonkeyPatch, plug: Plug) -> None:
    board = plug()
    gone = Path("/dev/ttyACM-that-was")
    back = Found(board.port, (ESP32_S3,), "303a:4001", "E4:5F:01:00:00:01")
    other = Found(Path("/dev/none"), (ESP32_S3,), "303a:4001", "another")
    monkeypatch.setattr(choose, "find", lambda: [other, back])
    bench = Bench(Found(gone, (ESP32_S3,), "303a:1001", "e45f01000001"), None)
    assert bench.answers(ESP32_S3).name == "micropython"
    assert bench.port == board.port
    monkeypatch.setattr(choose, "START", 0.2)
    monkeypatch.setattr(choose, "find", list)
    bench.port = gone
    with pytest.raises(FlashError, match="has not come back"):
        bench.answers(ESP32_S3)


def test_which_of_several_a_blank_board_is_has_to_be_said(folder: Path) -> None:
    bench = Bench(Found(folder, (), drive=True), None)
    assert bench.running() is None
    with pytest.raises(FlashError, match="cannot say which") as caught:
        bench.profile(None, None)
    assert "pico, pico-w" in caught.value.hint
    assert bench.profile(PICO_W, None) is PICO_W
    with pytest.raises(FlashError, match="not ESP32-S3"):
        bench.profile(ESP32_S3, None)
    acm = Bench(Found(Path("/dev/ttyACM0"), (PICO, PICO_W)), None)
    assert acm.profile(None, PICO) is PICO
    with pytest.raises(FlashError, match="this board is a Raspberry Pi Pico, not"):
        acm.profile(PICO_W, PICO)
