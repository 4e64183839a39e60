"""Drivers of sensors against simulated buses: registers, pulses, bits; and what goes wrong on each."""

import struct

from edge_sensors import SensorError
from edge_sensors.adc import Adc
from edge_sensors.bme280 import Bme280
from edge_sensors.chip import Chip
from edge_sensors.counter import Counter
from edge_sensors.dht22 import Dht22, decode
from edge_sensors.ds18b20 import Ds18b20, crc8


def refused(function, *args):
    """The text of the SensorError that the call raises."""
    try:
        function(*args)
    except SensorError as error:
        return str(error)
    raise AssertionError("nothing was raised")


def nothing(_ms):
    """Time that does not pass."""


# DHT22


def pulses_of(octets):
    """The lengths of a DHT22's bits."""
    return [70 if octet >> bit & 1 else 27 for octet in octets for bit in range(7, -1, -1)]


class DhtPin:
    """A pin with a DHT22 on it: `pulse` is what time_pulse_us would say."""

    OPEN_DRAIN = 2

    def __init__(self, lengths):
        self.lengths = lengths
        self.levels = []

    def init(self, mode):
        assert mode == self.OPEN_DRAIN

    def value(self, level):
        self.levels.append(level)
        self.left = list(self.lengths)

    def pulse(self, _pin, level, _timeout):
        assert level == 1
        return self.left.pop(0) if self.left else -2


def dht(lengths, before=(80,)):
    pin = DhtPin(list(before) + lengths)
    return Dht22(pin, pin.pulse, nothing), pin


def check_dht22_reads_what_its_data_sheet_shows():
    sensor, pin = dht(pulses_of((0x02, 0x8C, 0x01, 0x5F, 0xEE)), (30, 80))
    assert sensor.read() == {"temperature": 35.1, "humidity": 65.2}
    assert pin.levels == [0, 1]
    sensor, _ = dht(pulses_of((0x02, 0x8C, 0x80, 0x65, 0x73)))
    assert sensor.read() == {"temperature": -10.1, "humidity": 65.2}


def check_dht22_faults():
    good = pulses_of((0x02, 0x8C, 0x01, 0x5F, 0xEE))
    sensor, _ = dht([], ())
    assert "does not answer" in refused(sensor.read)
    sensor, _ = dht(good[:20])
    assert "21 bits" in refused(sensor.read)
    for at in range(40):
        bad = list(good)
        bad[at] = 97 - bad[at]
        assert "damaged" in refused(decode, bad), at
    assert "cannot measure" in refused(decode, pulses_of((0x04, 0x00, 0x01, 0x5F, 0x64)))


# BME280, with the example of the BMP280's data sheet (section 3.12), whose formulas are the same

T = (27504, 26435, -1000)
P = (36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)
H = (75, 370, 0, 313, 50, 30)
RAW_T, RAW_P, RAW_H = 519888, 415148, 30000


class Bus:
    """I2C with a BME280 of registers; `fault` is "gone", "stuck" or "busy"."""

    def __init__(self, chip=0x60, fault=""):
        self.registers = bytearray(256)
        self.fault = fault
        self.measured = 0
        self.registers[0xD0] = chip
        self.registers[0x88:0xA0] = struct.pack("<HhhHhhhhhhhh", *(T + P))
        self.registers[0xA1] = H[0]
        h4, h5 = H[3], H[4]
        self.registers[0xE1:0xE8] = struct.pack("<hBbBbb", H[1], H[2], h4 >> 4, h4 & 15 | (h5 & 15) << 4, h5 >> 4, H[5])
        self.data(0x80000, 0x80000, 0x8000)

    def data(self, temperature, pressure, humidity):
        for at, raw in ((0xF7, pressure), (0xFA, temperature)):
            self.registers[at : at + 3] = bytes((raw >> 12, raw >> 4 & 255, raw << 4 & 255))
        self.registers[0xFD:0xFF] = bytes((humidity >> 8, humidity & 255))

    def readfrom_mem(self, address, register, number):
        if self.fault == "gone" or address != 0x76:
            raise OSError(19)
        if self.fault == "stuck":
            raise OSError(110)
        return bytes(self.registers[register : register + number])

    def writeto_mem(self, address, register, data):
        self.readfrom_mem(address, register, 1)
        for i, value in enumerate(data):
            self.registers[register + i] = value
        if register == 0xF4 and data[0] & 3 == 1 and self.fault != "dead":
            assert self.registers[0xF2] == 1, "humidity is switched on before"
            self.measured += 1
            self.registers[0xF3] = 8 if self.fault == "busy" else 0
            self.data(RAW_T, RAW_P, RAW_H)


def in_floats(raw, fine):
    """Humidity in %, by the data sheet's other formula (section 8.1)."""
    h1, h2, h3, h4, h5, h6 = H
    h = fine - 76800.0
    h = (raw - (h4 * 64.0 + h5 / 16384.0 * h)) * (
        h2 / 65536.0 * (1.0 + h6 / 67108864.0 * h * (1.0 + h3 / 67108864.0 * h))
    )
    h = h * (1.0 - h1 * h / 524288.0)
    return min(max(h, 0.0), 100.0)


def check_bme280_computes_what_its_data_sheet_shows():
    bus = Bus()
    sensor = Bme280(bus, sleep_ms=nothing)
    found = sensor.read()
    assert sensor.fine(RAW_T) == 128422
    assert found["temperature"] == 25.08
    assert abs(found["pressure"] - 100653.27) < 0.1, found
    wet = in_floats(RAW_H, 128422)
    assert 5 < wet < 95
    assert abs(found["humidity"] - wet) < 0.05, (found, wet)
    for raw in range(20000, 40000, 1000):
        assert abs(sensor.humidity(raw, 128422) / 1024 - in_floats(raw, 128422)) < 0.05
    assert sensor.humidity(0, 128422) == 0
    assert sensor.humidity(65535, 128422) == 102400
    assert bus.measured == 1


def check_bme280_negative_trimming():
    sensor = Bme280(Bus(), sleep_ms=nothing)
    first = struct.pack("<HhhHhhhhhhhh", *(T + P)) + bytes((0, 75))
    sensor.calibrate(first, struct.pack("<hBbBbb", 370, 0, -20, 0x5C, -3, -1))
    assert sensor._h == (75, 370, 0, (-20 << 4) | 0xC, (-3 << 4) | 5, -1)


def check_bme280_faults():
    bus = Bus(fault="gone")
    sensor = Bme280(bus, sleep_ms=nothing)
    assert "0x76" in refused(sensor.read)
    bus.fault = "stuck"
    assert "look at its wires" in refused(sensor.read)
    bus.fault = ""
    assert sensor.read()["temperature"] == 25.08
    bus.fault = "busy"
    assert "does not finish" in refused(sensor.read)
    assert "chip id is 0x58" in refused(Bme280(Bus(chip=0x58), sleep_ms=nothing).read)
    assert "has not measured" in refused(Bme280(Bus(fault="dead"), sleep_ms=nothing).read)


# DS18B20


class Wire:
    """1-Wire with DS18B20s on it, by their numbers; `fault` is "gone", "low", "high" or "noise"."""

    def __init__(self, temperatures, fault=""):
        self.pads = {}
        self.fault = fault
        self.temperatures = temperatures
        for rom in temperatures:
            self.pads[rom] = self.pad(0x0550, reserved=0x0C)

    def pad(self, raw, reserved=0x10, resolution=0x7F):
        pad = struct.pack("<HBBBBBB", raw & 0xFFFF, 75, 70, resolution, 0xFF, reserved, 0x10)
        return pad + bytes((crc8(pad),))

    def reset(self):
        self.written = b""
        self.out = b""
        return self.fault != "gone"

    def writebyte(self, byte):
        self.written += bytes((byte,))
        chosen = list(self.pads) if self.written[0] == 0xCC else [self.written[1:9]]
        command = self.written[1:] if self.written[0] == 0xCC else self.written[9:]
        if command == b"\x44":
            for rom in chosen:
                self.pads[rom] = self.pad(self.temperatures[rom])
        elif command == b"\xbe":
            self.out = self.pads.get(chosen[0], b"\xff" * 9)

    def readbyte(self):
        byte, self.out = self.out[0], self.out[1:]
        if self.fault == "low":
            return 0
        if self.fault == "high":
            return 255
        return byte ^ (4 if self.fault == "noise" and len(self.out) == 8 else 0)


def rom(number):
    start = bytes((0x28, number, 0, 0, 0, 0, 0))
    return start + bytes((crc8(start),))


def check_ds18b20_reads_what_its_data_sheet_shows():
    assert crc8(b"\x02\x1c\xb8\x01\x00\x00\x00") == 0xA2  # of Maxim's application note 27
    for raw, value in ((0x07D0, 125), (0x0191, 25.0625), (0x0008, 0.5), (0xFFF8, -0.5), (0xFE6F, -25.0625)):
        assert Ds18b20(Wire({rom(1): raw}), sleep_ms=nothing).read() == {"temperature": value}


def check_ds18b20_several_on_a_wire():
    wire = Wire({rom(1): 0x0191, rom(2): 0xFF5E})
    first, second = Ds18b20(wire, rom(1), nothing), Ds18b20(wire, rom(2), nothing)
    first.start()
    second.start()
    assert first.result() == {"temperature": 25.0625}
    assert second.result() == {"temperature": -10.125}
    try:
        Ds18b20(wire, rom(1)[:7] + b"\0")
    except ValueError:
        pass
    else:
        raise AssertionError("a number with a wrong check-sum was taken")


def check_ds18b20_with_fewer_bits():
    wire = Wire({rom(1): 0})
    sensor = Ds18b20(wire, sleep_ms=nothing)
    wire.pads[rom(1)] = wire.pad(0x0197, resolution=0x1F)  # 9 bits: the lower three are undefined
    assert sensor.result() == {"temperature": 25.0}


def check_ds18b20_faults():
    wire = Wire({rom(1): 0x0191})
    sensor = Ds18b20(wire, sleep_ms=nothing)
    assert "not measured" in refused(sensor.result)
    for fault, text in (("gone", "nothing answers"), ("low", "damaged"), ("high", "not answer"), ("noise", "damaged")):
        wire.fault = fault
        assert text in refused(sensor.read), fault
    wire.fault = ""
    assert sensor.read() == {"temperature": 25.0625}
    assert "does not answer" in refused(Ds18b20(wire, rom(9), nothing).result)


# Pins


class Analogue:
    """An input that gives these raw values in turn."""

    def __init__(self, *raws):
        self.raws = raws
        self.at = 0

    def read_u16(self):
        self.at += 1
        return self.raws[(self.at - 1) % len(self.raws)]


def check_adc_calibration_and_spikes():
    points = ((1000, 0), (2000, 10), (4000, 50))
    for raw, value in ((1000, 0), (1500, 5), (2000, 10), (3000, 30), (500, -5), (5000, 70)):
        assert Adc(Analogue(raw), points=points).read() == {"value": value}
    spiky = Analogue(1500, 1500, 65535, 1500, 1500, 0, 1500, 1500)
    assert Adc(spiky, "level", points).read() == {"level": 5}
    assert "'level' is at 0" in refused(Adc(Analogue(0), "level", points, least=100).read)
    assert "65535" in refused(Adc(Analogue(65535), most=65000).read)
    for wrong in (((0, 0),), ((5, 0), (5, 1))):
        try:
            Adc(Analogue(0), points=wrong)
        except ValueError:
            continue
        raise AssertionError("points that are no calibration were taken")


class Contact:
    """A pin that falls when it is told to, and a clock of 30 bits as on a board."""

    IRQ_FALLING = 2

    def __init__(self, now=0):
        self.now = now

    def irq(self, handler, trigger):
        assert trigger == self.IRQ_FALLING
        self.handler = handler

    def fall(self, after):
        self.now = (self.now + after) % (1 << 30)
        self.handler(self)

    def ticks_ms(self):
        return self.now

    def ticks_diff(self, a, b):
        return (a - b + (1 << 29)) % (1 << 30) - (1 << 29)


def counter(start=0):
    pin = Contact(start)
    return Counter(pin, "turns", 5, pin.ticks_ms, pin.ticks_diff), pin


def check_counter_debounces():
    sensor, pin = counter()
    assert sensor.read() == {"turns": 0, "turns_total": 0}
    for after in (0, 1, 1, 1, 20, 1, 3, 4, 4, 20, 5):
        pin.fall(after)
    assert sensor.read() == {"turns": 4, "turns_total": 4}
    assert sensor.read() == {"turns": 0, "turns_total": 4}


def check_counter_wraps():
    sensor, pin = counter((1 << 30) - 8)
    sensor._seen = sensor._carried = (1 << 24) - 2
    for _ in range(5):
        pin.fall(10)
    assert sensor.read() == {"turns": 5, "turns_total": 5}
    assert sensor._seen == 3


class Esp32:
    """The module of a C3."""

    @staticmethod
    def mcu_temperature():
        return 41


class OldEsp32:
    """The module of the first ESP32."""

    @staticmethod
    def raw_temperature():
        return 122


class Rp2040:
    """`machine` of a Pico."""

    @staticmethod
    def ADC(channel):  # noqa: N802
        assert channel == 4
        return Analogue(14021)  # 0.706 V


def check_the_chips_own_thermometer():
    assert Chip("esp32", {"esp32": Esp32}).read() == {"temperature": 41}
    assert Chip("esp32", {"esp32": OldEsp32}).read() == {"temperature": 50}
    assert abs(Chip("rp2", {"machine": Rp2040}).read()["temperature"] - 27) < 0.2
    assert "linux" in refused(Chip("linux").read)
