"""The two systems of a card, as the chooser and RAUC report them; every call may take seconds."""

from __future__ import annotations

import json
import re
import subprocess

from appliance.errors import LanternError
from appliance.system.update_state import RUNNING_VERSION

_CHOOSER = "/usr/lib/lantern/slot.sh"
_RAUC = "/usr/bin/rauc"
_INSTALL_TIMEOUT_S = 3600.0


class UpdateError(LanternError):
    """An update that is refused, or that could not be installed; the running system is unchanged."""

    status = 422
    code = "update_refused"


def running_version() -> str:
    """Return the version of the running system."""
    return RUNNING_VERSION.read_text("utf-8").strip()


def is_newer(version: str, than: str) -> bool:
    """Return whether one version, numbers with dots, comes after another.

    Raises:
        UpdateError: not a version.
    """
    return _numbers(version) > _numbers(than)


def is_confirmed() -> bool:
    """Return whether the running system was ever healthy; otherwise it is on trial."""
    return subprocess.run([_CHOOSER, "is-confirmed"], check=False).returncode == 0  # noqa: S603


def confirm() -> None:
    """Keep the running system.

    Raises:
        UpdateError: RAUC refused.
    """
    _rauc("status", "mark-good", timeout_s=120.0)


def version_of(bundle: str) -> str:
    """Verify the signature of an update, and return its version.

    Raises:
        UpdateError: a foreign signature, or a damaged file.
    """
    answer = json.loads(_rauc("info", "--output-format=json", bundle, timeout_s=300.0))
    return str(answer["version"])


def install(bundle: str) -> None:
    """Write an update, a file or a URL, to the slot that does not run, and let it start next.

    Raises:
        UpdateError: RAUC refused, or failed.
    """
    _rauc("install", bundle, timeout_s=_INSTALL_TIMEOUT_S)


def _numbers(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,5}", version):
        raise UpdateError(f"{version[:40]!r} is no version")
    return tuple(int(part) for part in version.split("."))


def _rauc(*arguments: str, timeout_s: float) -> str:
    try:
        result = subprocess.run(  # noqa: S603
            [_RAUC, *arguments], capture_output=True, text=True, errors="replace", check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as err:
        raise UpdateError(f"rauc {arguments[0]} was not done after {timeout_s:.0f} s") from err
    if result.returncode != 0:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip()]
        raise UpdateError(f"rauc {arguments[0]}: {lines[-1] if lines else f'exit code {result.returncode}'}"[:500])
    return result.stdout
