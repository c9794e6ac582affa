"""The boot partition's settings, applied at a start: the appliance's lantern.toml, Wi-Fi, time zone, SSH.

Run by lantern-settings.service before the network and the appliance start:
`python -m appliance.system.apply_settings FOLDER`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.host.files import write_atomically
from appliance.system.boot_settings import Settings, read_settings

_TICKET = "claim-again"
_HEADER = "# Written at every start from lantern.toml on the boot partition: change it there.\n"
# Defaults of a device, unlike those of a workstation; the boot partition overrides them.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "server": {"host": "0.0.0.0", "claimable": True, "claim_file": "/run/lantern/claim-again"},  # noqa: S104
    "tls": {"enabled": True},
    "discovery": {"announce": True},
}
# Slots by memory: the K/V cache of all slots has to fit next to the model.
_SLOTS_BELOW_MIB = ((700, 1), (1500, 2))


def main(folder: Path, root: Path = Path("/")) -> int:
    """Apply the folder's settings to the system below `root`; always return 0, since no mistake may stop a start."""
    settings = read_settings(folder)
    memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    _write_appliance_settings(settings, root / "var/lib/lantern/lantern.toml", memory_mib)
    _write_wifi(settings, root / "etc/wpa_supplicant/wpa_supplicant-wlan0.conf")
    _set_time_zone(settings, root)
    _write_ssh_keys(settings, root / "etc/ssh/authorized_keys/root")
    run = root / "run/lantern"
    run.mkdir(parents=True, exist_ok=True)
    if (folder / _TICKET).exists():
        shutil.copy2(folder / _TICKET, run / _TICKET)  # its time distinguishes it from a later one
    if settings.poll_url:
        (run / "update-url").write_text(settings.poll_url + "\n", "utf-8")
    (run / "problems").write_text("".join(f"{p}\n" for p in settings.problems), "utf-8")
    for problem in settings.problems:
        sys.stderr.write(f"{problem}\n")
    if root == Path("/"):
        _start(settings)
    return 0


def fitting(memory_mib: int) -> dict[str, dict[str, Any]]:
    """Return settings for boards with little memory; none for others."""
    slots = next((slots for below_mib, slots in _SLOTS_BELOW_MIB if memory_mib < below_mib), None)
    return {} if slots is None else {"engine": {"slots": slots}}


def toml_of(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return TOML of sections with plain values, lists and tables of them."""
    lines = []
    for name, values in sections.items():
        lines.append(f"[{name}]")
        lines.extend(f"{_toml_key(key)} = {_toml_value(value)}" for key, value in values.items())
    return "\n".join(lines) + "\n"


def _toml_key(key: str) -> str:
    return json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value if isinstance(value, bool | int | float) else str(value))


def _write_appliance_settings(settings: Settings, path: Path, memory_mib: int) -> None:
    """Write the user's sections; if they are not valid, keep the last valid ones, or else the defaults."""
    defaults = {**_DEFAULTS, **fitting(memory_mib)}
    names = [*defaults, *(s for s in settings.appliance if s not in defaults)]
    chosen = {name: {**defaults.get(name, {}), **settings.appliance.get(name, {})} for name in names}
    if settings.name:
        chosen["discovery"].setdefault("name", settings.name)
    present = path.read_bytes() if path.exists() else None
    text = (_HEADER + toml_of(chosen)).encode()
    if text == present:
        return
    problem = None if chosen == defaults else _problem_with(text, path)
    if problem is None:
        write_atomically(path, text)
        return
    settings.complain("lantern.toml", problem)
    if present is None:
        write_atomically(path, (_HEADER + toml_of(defaults)).encode())


def _problem_with(text: bytes, path: Path) -> str | None:
    """Return the reason why the appliance would refuse these settings, if there is one."""
    # Imported here since it takes a second on the smallest board, and most starts change nothing.
    from appliance.config import load_config
    from appliance.errors import ConfigError

    staged = path.with_name(".lantern.toml.new")
    staged.write_bytes(text)
    try:
        load_config(staged, environment={})
    except ConfigError as err:
        return err.message
    finally:
        staged.unlink()
    return None


def _write_wifi(settings: Settings, path: Path) -> None:
    if not settings.networks:
        return
    lines = ["ctrl_interface=DIR=/run/wpa_supplicant", *([f"country={settings.country}"] if settings.country else [])]
    for name, password in settings.networks.items():
        # A name in hexadecimal may hold any character; 64 hexadecimal digits are the key itself.
        secret = "key_mgmt=NONE" if not password else f'psk="{password}"' if len(password) < 64 else f"psk={password}"
        protection = [] if not password else ["key_mgmt=WPA-PSK WPA-PSK-SHA256 SAE", "ieee80211w=1"]
        lines += ["network={", f"ssid={name.encode().hex()}", "scan_ssid=1", *protection, secret, "}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _set_time_zone(settings: Settings, root: Path) -> None:
    if settings.time_zone is None:
        return
    zone = Path("usr/share/zoneinfo") / settings.time_zone
    if not (root / zone).is_file():
        settings.complain("lantern.toml", f"there is no time zone {settings.time_zone}.")
        return
    link = root / "etc/localtime"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("/") / zone)


def _write_ssh_keys(settings: Settings, path: Path) -> None:
    if settings.ssh_keys:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{key}\n" for key in settings.ssh_keys), "utf-8")


def _start(settings: Settings) -> None:
    """Start the units that the user asked for."""
    units = [
        *(["wpa_supplicant@wlan0.service"] if settings.networks else []),
        *(["lantern-ssh.service"] if settings.ssh_keys else []),
        *(["lantern-poll.timer"] if settings.poll_url else []),
    ]
    if units:
        subprocess.run(["/usr/bin/systemctl", "start", "--no-block", *units], check=False)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
