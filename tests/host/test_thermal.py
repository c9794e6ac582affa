from __future__ import annotations

from pathlib import Path

from appliance.host.thermal import Thermal, read_thermal


def put(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_a_board_that_tells_nothing_is_not_throttled(tmp_path: Path) -> None:
    assert read_thermal(tmp_path) == Thermal()


def test_the_hottest_plausible_zone_counts(tmp_path: Path) -> None:
    zones = {f"class__thermal__thermal_zone{i}__temp": t for i, t in enumerate(["41000", "67500", "-274000", "x"])}
    assert read_thermal(put(tmp_path, **zones)).temperature_c == 67.5


def test_a_raspberry_pi_says_itself_what_holds_it_back(tmp_path: Path) -> None:
    flags = tmp_path / "devices/platform/soc/soc:firmware/get_throttled"
    flags.parent.mkdir(parents=True)
    for text, throttled, under_voltage in (("0", False, False), ("50005", True, True), ("50000", False, False)):
        flags.write_text(text)
        thermal = read_thermal(tmp_path)
        assert (thermal.is_throttled, thermal.is_under_voltage) == (throttled, under_voltage)
        assert thermal.was_throttled == thermal.was_under_voltage == (text != "0")


def test_a_processor_that_the_kernel_cools_is_throttled(tmp_path: Path) -> None:
    device = "class__thermal__cooling_device0__"
    put(tmp_path, **{f"{device}type": "cpufreq-cpu0", f"{device}cur_state": "2"})
    assert read_thermal(tmp_path).is_throttled
    put(tmp_path, **{f"{device}type": "pwm-fan"})
    assert not read_thermal(tmp_path).is_throttled


def test_a_voltage_alarm_is_seen(tmp_path: Path) -> None:
    monitor = "class__hwmon__hwmon1__"
    assert read_thermal(
        put(tmp_path, **{f"{monitor}name": "rpi_volt", f"{monitor}in0_lcrit_alarm": "1"})
    ).is_under_voltage
