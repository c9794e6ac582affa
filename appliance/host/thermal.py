"""The board's temperature and throttling, read from sysfs; empty if a board has no sensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_SYS = Path("/sys")
_UNDER_VOLTAGE, _CAPPED, _THROTTLED, _SOFT_LIMIT = 1, 1 << 1, 1 << 2, 1 << 3  # vcgencmd get_throttled
_SLOWED = _CAPPED | _THROTTLED | _SOFT_LIMIT
_SINCE_START = 16  # the same flags, shifted: it has happened since the start


@dataclass(frozen=True, slots=True)
class Thermal:
    """The hottest zone, what holds the board back at this moment, and what did since it started, if it tells that."""

    temperature_c: float | None = None
    is_throttled: bool = False
    is_under_voltage: bool = False
    was_throttled: bool = False
    was_under_voltage: bool = False


def read_thermal(sys: Path = _SYS) -> Thermal:
    """Read the board's state; blocks for some milliseconds."""
    temperatures = [
        t for zone in sorted(sys.glob("class/thermal/thermal_zone*/temp")) if (t := _number(zone)) is not None
    ]
    plausible = [t / 1000 for t in temperatures if -40_000 < t < 150_000]
    firmware = _firmware_flags(sys)
    return Thermal(
        temperature_c=max(plausible, default=None),
        is_throttled=bool(firmware & _SLOWED) or _is_cooled(sys),
        is_under_voltage=bool(firmware & _UNDER_VOLTAGE) or _has_voltage_alarm(sys),
        was_throttled=bool(firmware >> _SINCE_START & _SLOWED),
        was_under_voltage=bool(firmware >> _SINCE_START & _UNDER_VOLTAGE),
    )


def _firmware_flags(sys: Path) -> int:
    """Return a Raspberry Pi's firmware flags for throttling; 0 on other boards."""
    for path in sys.glob("devices/platform/soc*/*firmware*/get_throttled"):
        text = _text(path)
        if text is not None:
            try:
                return int(text, 16)
            except ValueError:
                return 0
    return 0


def _is_cooled(sys: Path) -> bool:
    """Tell if the kernel slows a processor down."""
    for device in sys.glob("class/thermal/cooling_device*"):
        kind = (_text(device / "type") or "").lower()
        if kind.startswith(("processor", "cpufreq", "cpu-", "thermal-cpufreq", "devfreq")) and _number(
            device / "cur_state"
        ):
            return True
    return False


def _has_voltage_alarm(sys: Path) -> bool:
    return any(
        _text(monitor / "name") == "rpi_volt" and _number(monitor / "in0_lcrit_alarm")
        for monitor in sys.glob("class/hwmon/hwmon*")
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    try:
        return int(text) if text else None
    except ValueError:
        return None
