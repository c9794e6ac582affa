"""The settings that a user wrote on the boot partition: lantern.toml, and the Raspberry Pi Imager's cloud-init files.

Read at every start. Each mistake becomes a sentence for the console, and the other settings count: no mistake may keep
a device from starting. Of cloud-init, only the settings listed here are understood, and no command is ever run.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TOML = "lantern.toml"
_USER_DATA = "user-data"
_NETWORK = "network-config"
_MAX_BYTES = 256 << 10
_OURS = frozenset({"device", "wifi", "update"})


@dataclass(slots=True)
class Settings:
    """The settings of one start; `appliance` holds the sections of the appliance's own lantern.toml."""

    name: str | None = None
    time_zone: str | None = None
    country: str | None = None
    ssh_keys: list[str] = field(default_factory=list)
    networks: dict[str, str] = field(default_factory=dict)
    poll_url: str | None = None
    appliance: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def complain(self, file: str, sentence: str) -> None:
        """Add a sentence for the user."""
        self.problems.append(f"{file}: {sentence}")


def read_settings(folder: Path) -> Settings:
    """Read every setting in this folder that can be understood; lantern.toml overrides cloud-init."""
    settings = Settings()
    _read_user_data(folder, settings)
    _read_network(folder, settings)
    _read_toml(folder, settings)
    return settings


def _read_toml(folder: Path, settings: Settings) -> None:
    text = _text(folder / _TOML, settings)
    if text is None:
        return
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        settings.complain(_TOML, f"not valid TOML, so nothing of it counts: {err}.")
        return
    sections = {name: value for name, value in raw.items() if isinstance(value, dict)}
    for name in raw.keys() - sections.keys():
        settings.complain(_TOML, f"{name} stands outside a section such as [device].")
    take = _Taker(_TOML, settings)
    device, wifi = sections.get("device", {}), sections.get("wifi", {})
    take.only("device", device, {"name", "time_zone", "ssh_keys"})
    take.only("wifi", wifi, {"country", "network", "password"})
    take.only("update", sections.get("update", {}), {"url"})
    settings.name = take.text(device, "name", _is_name) or settings.name
    settings.time_zone = take.text(device, "time_zone", _is_time_zone) or settings.time_zone
    settings.country = take.text(wifi, "country", _is_country) or settings.country
    settings.poll_url = take.text(sections.get("update", {}), "url", _is_url)
    take.ssh_keys(device.get("ssh_keys", []))
    take.network(wifi.get("network"), wifi.get("password", ""))
    settings.appliance = {name: value for name, value in sections.items() if value and name not in _OURS}


def _read_user_data(folder: Path, settings: Settings) -> None:
    raw = _yaml(folder / _USER_DATA, settings)
    take = _Taker(_USER_DATA, settings)
    settings.name = take.text(raw, "hostname", _is_name)
    settings.time_zone = take.text(raw, "timezone", _is_time_zone)
    take.ssh_keys(raw.get("ssh_authorized_keys", []))
    users = raw.get("users")
    for user in users if isinstance(users, list) else ():
        if isinstance(user, dict):
            take.ssh_keys(user.get("ssh_authorized_keys", []))


def _read_network(folder: Path, settings: Settings) -> None:
    raw = _yaml(folder / _NETWORK, settings)
    network = raw.get("network", raw)
    interfaces = network.get("wifis") if isinstance(network, dict) else None
    take = _Taker(_NETWORK, settings)
    for interface in interfaces.values() if isinstance(interfaces, dict) else ():
        if not isinstance(interface, dict):
            continue
        settings.country = take.text(interface, "regulatory-domain", _is_country) or settings.country
        points = interface.get("access-points")
        for name, point in points.items() if isinstance(points, dict) else ():
            take.network(name, _password(point))


def _password(point: object) -> object:
    """Return a network's password, which netplan has next to its name, or below `auth`."""
    if not isinstance(point, dict):
        return ""
    inner = point.get("auth")
    return point.get("password") or (inner.get("password", "") if isinstance(inner, dict) else "")


class _Taker:
    """The values of one file, each taken only if it is valid."""

    def __init__(self, file: str, settings: Settings) -> None:
        self._file = file
        self._settings = settings

    def only(self, section: str, values: Mapping[str, object], known: set[str]) -> None:
        for name in values.keys() - known:
            self._settings.complain(self._file, f"there is no setting {section}.{name}.")

    def text(self, values: Mapping[str, object], name: str, is_valid: Callable[[str], bool]) -> str | None:
        value = values.get(name)
        if value in (None, ""):
            return None
        if isinstance(value, str) and is_valid(value):
            return value
        self._settings.complain(self._file, f"{name} cannot be {str(value)[:60]!r}.")
        return None

    def ssh_keys(self, keys: object) -> None:
        for key in keys if isinstance(keys, list) else [keys]:
            if isinstance(key, str) and re.fullmatch(
                r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\n\r]*)?", key.strip()
            ):
                self._settings.ssh_keys.append(key.strip())
            else:
                self._settings.complain(self._file, "an SSH key is no public key.")

    def network(self, name: object, password: object) -> None:
        if name in (None, ""):
            return
        is_named = isinstance(name, str) and len(name.encode()) <= 32 and name.isprintable()
        is_secret = isinstance(password, str) and (password == "" or bool(re.fullmatch(r"[ -~]{8,64}", password)))
        if is_named and is_secret:
            self._settings.networks[str(name)] = str(password)
        else:
            reason = "its password has to be 8 to 63 characters" if is_named else "its name is not valid"
            self._settings.complain(self._file, f"the Wi-Fi network {str(name)[:32]!r} cannot be used: {reason}.")


def _is_name(text: str) -> bool:
    return len(text) <= 56 and text.isprintable() and text.strip() != ""


def _is_time_zone(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9+_-]+(/[A-Za-z0-9+_-]+)*", text) is not None


def _is_country(text: str) -> bool:
    return re.fullmatch(r"[A-Z]{2}", text) is not None


def _is_url(text: str) -> bool:
    return re.fullmatch(r"https?://[^\s\"\\]+", text) is not None


def _yaml(path: Path, settings: Settings) -> dict[str, Any]:
    text = _text(path, settings)
    if not text:
        return {}
    import yaml  # Debian's, which only an image has, and only where the Imager wrote something

    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        settings.complain(path.name, f"not valid YAML, so nothing of it counts: {' '.join(str(err).split())[:200]}.")
        return {}
    return raw if isinstance(raw, dict) else {}


def _text(path: Path, settings: Settings) -> str | None:
    """Return a file's text without the byte order mark that some editors write."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as err:
        settings.complain(path.name, f"cannot be read: {err.strerror}.")
        return None
    if len(data) > _MAX_BYTES:
        settings.complain(path.name, "too large.")
        return None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        settings.complain(path.name, "not UTF-8; save it again as plain text.")
        return None
