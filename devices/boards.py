"""Board profiles: what has to be known of a kind of board to put MicroPython and a program on it.

Flash offsets and chip ids are those of Espressif's "Firmware Image Format" and of MicroPython's `ports/esp32`
(`boards/sdkconfig.base`, `partitions-4MiB.csv`); the RP2040's addresses are from its datasheet, section 2.6, and its
family id from the list of the UF2 specification. Pins are those of the makers' own boards (DevKitC, DevKitM, Pico).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge_runtime.errors import EdgeError, nearest

Family = Literal["esp32", "rp2"]
"""MicroPython's port, as `sys.platform` says it on the board."""


@dataclass(frozen=True)
class UsbId:
    """A USB vendor and product, and what is behind them."""

    vid: int
    pid: int
    what: str

    @property
    def text(self) -> str:
        """`303a:1001`."""
        return f"{self.vid:04x}:{self.pid:04x}"


BRIDGES = (
    UsbId(0x10C4, 0xEA60, "CP210x bridge"),
    UsbId(0x1A86, 0x7523, "CH340 bridge"),
    UsbId(0x1A86, 0x55D3, "CH343 bridge"),
    UsbId(0x1A86, 0x55D4, "CH9102 bridge"),
    UsbId(0x0403, 0x6001, "FT232 bridge"),
    UsbId(0x0403, 0x6015, "FT231X bridge"),
)
"""USB bridges that boards without a USB port of their own have: which board is behind one, only the chip can say."""

ESP_USB = UsbId(0x303A, 0x1001, "USB port of an Espressif chip")
ESP_TINYUSB = UsbId(0x303A, 0x4001, "MicroPython on an ESP32-S2 or S3")
PICO_BOOT = UsbId(0x2E8A, 0x0003, "RP2040 that waits for its image (BOOTSEL)")
PICO_PYTHON = UsbId(0x2E8A, 0x0005, "MicroPython on an RP2040")


@dataclass(frozen=True)
class EspFlash:
    """How an ESP chip is written: everything is in bytes."""

    chip: str
    """As esptool calls it."""
    chip_id: int
    """In bytes 12 and 13 of an image's header."""
    offset: int
    """Where the second-stage boot loader, and so MicroPython's image, begins."""
    table: int = 0x8000
    """Where the partition table is."""
    app: int = 0x10000
    """Where the application is."""
    baud: int = 460_800
    """Bits per second that common bridges manage."""


@dataclass(frozen=True)
class Uf2Flash:
    """How a chip with a UF2 drive is written."""

    family: int
    """The family id of the UF2 specification."""
    start: int
    """The address at which the flash begins."""
    board_id: str
    """What `INFO_UF2.TXT` on the drive says."""


@dataclass(frozen=True)
class Bus:
    """Pins of a UART (tx, rx) or an I2C bus (sda, scl)."""

    id: int
    first: int
    second: int


@dataclass(frozen=True)
class Board:
    """A kind of board."""

    name: str
    """As `edge flash --board` has it."""
    title: str
    family: Family
    usb: tuple[UsbId, ...]
    flash: EspFlash | Uf2Flash
    flash_bytes: int
    """The smallest flash that the usual modules have."""
    ram_bytes: int
    files_bytes: int
    """What MicroPython's image leaves of that for files."""
    led: int | str
    """Its pin; a text where `machine.Pin` wants a name."""
    uart: Bus
    i2c: Bus
    download: str
    """How MicroPython's files for it begin, and the name of its page at micropython.org/download/."""
    machine: str
    """What `sys.implementation._machine` ends with."""
    wifi: bool = True
    notes: tuple[str, ...] = field(default=())

    @property
    def suffix(self) -> str:
        """How the name of an image of it ends."""
        return ".bin" if isinstance(self.flash, EspFlash) else ".uf2"


ESP32 = Board(
    name="esp32",
    title="ESP32",
    family="esp32",
    usb=BRIDGES,
    flash=EspFlash("esp32", 0, 0x1000),
    flash_bytes=4 << 20,
    ram_bytes=520 << 10,
    files_bytes=2 << 20,
    led=2,
    uart=Bus(2, 17, 16),
    i2c=Bus(0, 21, 22),
    download="ESP32_GENERIC",
    machine="with ESP32",
    notes=("Pins 6 to 11 belong to the flash.",),
)
ESP32_S3 = Board(
    name="esp32-s3",
    title="ESP32-S3",
    family="esp32",
    usb=(ESP_USB, ESP_TINYUSB, *BRIDGES),
    flash=EspFlash("esp32s3", 9, 0),
    flash_bytes=8 << 20,
    ram_bytes=512 << 10,
    files_bytes=6 << 20,
    led=48,
    uart=Bus(1, 17, 18),
    i2c=Bus(0, 8, 9),
    download="ESP32_GENERIC_S3",
    machine="with ESP32S3",
    notes=("The LED is a WS2812 (neopixel), on pin 38 of later DevKitC-1.",),
)
ESP32_C3 = Board(
    name="esp32-c3",
    title="ESP32-C3",
    family="esp32",
    usb=(ESP_USB, *BRIDGES),
    flash=EspFlash("esp32c3", 5, 0),
    flash_bytes=4 << 20,
    ram_bytes=400 << 10,
    files_bytes=2 << 20,
    led=8,
    uart=Bus(1, 4, 5),
    i2c=Bus(0, 6, 7),
    download="ESP32_GENERIC_C3",
    machine="with ESP32C3",
    notes=("The LED is a WS2812 (neopixel).",),
)
PICO = Board(
    name="pico",
    title="Raspberry Pi Pico",
    family="rp2",
    usb=(PICO_BOOT, PICO_PYTHON),
    flash=Uf2Flash(0xE48BFF56, 0x10000000, "RPI-RP2"),
    flash_bytes=2 << 20,
    ram_bytes=264 << 10,
    files_bytes=1408 << 10,
    led=25,
    uart=Bus(0, 0, 1),
    i2c=Bus(0, 4, 5),
    download="RPI_PICO",
    machine="Pico with RP2040",
    wifi=False,
)
PICO_W = Board(
    name="pico-w",
    title="Raspberry Pi Pico W",
    family="rp2",
    usb=(PICO_BOOT, PICO_PYTHON),
    flash=Uf2Flash(0xE48BFF56, 0x10000000, "RPI-RP2"),
    flash_bytes=2 << 20,
    ram_bytes=264 << 10,
    files_bytes=848 << 10,
    led="LED",
    uart=Bus(0, 0, 1),
    i2c=Bus(0, 4, 5),
    download="RPI_PICO_W",
    machine="Pico W with RP2040",
)

BOARDS = {board.name: board for board in (ESP32, ESP32_S3, ESP32_C3, PICO, PICO_W)}


def named(name: str) -> Board:
    """The profile of that name; raises EdgeError, which names the nearest."""
    board = BOARDS.get(name)
    if board is None:
        raise EdgeError(f"there is no board profile '{name}'", hint=nearest(name, BOARDS))
    return board


def fitting(vid: int | None, pid: int | None) -> tuple[Board, ...]:
    """The kinds of board that a USB id can be; none for one that is no board."""
    return tuple(board for board in BOARDS.values() if any((each.vid, each.pid) == (vid, pid) for each in board.usb))


def of_machine(platform: str, machine: str) -> Board | None:
    """The kind of board that MicroPython says it runs on, by its `sys.platform` and `_machine`; None for another."""
    for board in BOARDS.values():
        if platform == board.family and machine.endswith(board.machine):
            return board
    return None
