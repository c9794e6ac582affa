"""The installation: settings, port, keys, bundles, unit, versions."""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from appliance import __version__
from appliance.access.keystore import KeyStore
from appliance.bundle import BundleStore, TrustedKeys
from appliance.bundle.targets import is_built_for
from appliance.config import Config, load_config
from appliance.diagnosis.finding import Finding, bad, good, note
from appliance.errors import ConfigError, LanternError
from appliance.home import Home
from appliance.host.addresses import is_loopback
from appliance.host.processor import ProcessorKind, processor_kind

_UNIT = "lantern.service"
_FLOORS = {"aiohttp": (3, 14, 3), "zeroconf": (0, 150), "Jinja2": (3, 1, 6)}  # below these are known holes
_SHORT_KEY_CHARS = 20  # a drawn key has 43 beyond its prefix


def check_settings(path: Path | None) -> tuple[Finding, Config]:
    """Check the settings file; the defaults stand in for one that is not valid."""
    try:
        config = load_config(path)
    except ConfigError as err:
        return bad("settings", err.message, f"Correct {path}; lantern config prints what there is."), Config()
    return good("settings", f"{path} is valid" if path else "the defaults"), config


def check_port(config: Config, *, is_running: bool) -> Finding:
    """Check that the port is free, or taken by the service itself."""
    server = config.server
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((server.host, server.port))
        except OSError as err:
            if is_running:
                return good("port", f"{server.port} is served")
            reason = (err.strerror or str(err)).lower()
            return bad(
                "port", f"{server.host}:{server.port}: {reason}", "Stop what uses it, or choose another server.port."
            )
    return good("port", f"{server.port} is free")


def check_keys(home: Home, config: Config) -> Finding:
    """Check that clients can identify themselves, if they have to."""
    num_keys = len(KeyStore(home.api_keys).all()) + len(config.server.keys)
    if any(len(key) < _SHORT_KEY_CHARS for key in config.server.keys):
        told = f"one of the settings has fewer than {_SHORT_KEY_CHARS} characters: it can be guessed"
        return note("keys", told, "Take a drawn one instead: lantern keys create NAME.")
    if num_keys:
        return good("keys", f"{num_keys} accepted")
    if is_loopback(config.server.host):
        return good("keys", "none, and only this machine can connect")
    if config.server.allow_open:
        return note("keys", "anybody on the network may use this device", "Make a key: lantern keys create NAME.")
    return bad("keys", "there is none, so the server will not start", "Make a key: lantern keys create NAME.")


def check_bundles(home: Home, kind: ProcessorKind | None = None) -> list[Finding]:
    """Check every installed bundle, byte for byte, and its target against the kind of this processor."""
    kind = kind or processor_kind()
    store = BundleStore(home.bundles, TrustedKeys.load(home.trusted_keys))
    names = store.names()
    if not names:
        return [bad("models", f"none is installed in {home.bundles}", "Build the starters: lantern-quantize starter.")]
    findings = []
    for name in names:
        try:
            target = store.open(name).manifest.built_for
            findings.append(good("models", f"{name} is whole"))
            if not is_built_for(target, kind):
                told = f"{name} was built for {target}; it runs on this processor ({kind}) too, with other figures"
                findings.append(note("models", told, "Build it again with --for any, or for this board."))
        except LanternError as err:
            findings.append(bad("models", f"{name}: {err.message}", "Install it again, or remove it."))
    return findings


def check_unit() -> tuple[Finding, bool]:
    """Check systemd's state of the service."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not Path("/run/systemd/system").is_dir():
        return good("unit", "this machine has no systemd"), False
    command = [systemctl, "show", _UNIT, "--property=LoadState,ActiveState,Result,NRestarts"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603 - ours
    return judge_unit(dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line))


def judge_unit(state: Mapping[str, str]) -> tuple[Finding, bool]:
    """Read `systemctl show`."""
    if state.get("LoadState") != "loaded":
        return note("unit", f"{_UNIT} is not installed", "To serve from boot on: make install."), False
    active, result, restarts = state.get("ActiveState", ""), state.get("Result", ""), int(state.get("NRestarts") or 0)
    if active == "failed":
        return bad(
            "unit", f"{_UNIT} failed: {result}", "Read journalctl -u lantern; then systemctl reset-failed lantern."
        ), False
    if active == "active" and restarts:
        return note("unit", f"it runs, and was started again {restarts} times", "Read journalctl -u lantern."), True
    return good("unit", f"{_UNIT} is {active}"), active == "active"


def check_versions(installed: Mapping[str, str] | None = None) -> Finding:
    """Check the versions of this program, of Python, and of packages with known holes."""
    versions = installed if installed is not None else {name: metadata.version(name) for name in _FLOORS}
    for name, floor in _FLOORS.items():
        found = tuple(int(part) for part in versions[name].split(".")[:3] if part.isdigit())
        if found < floor:
            wanted = ".".join(map(str, floor))
            return bad("versions", f"{name} {versions[name]} has known holes", f"Install {name} {wanted} or newer.")
    return good("versions", f"lantern {__version__}, Python {platform.python_version()}")
