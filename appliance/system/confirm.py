"""The confirmation of a healthy system, and the restart of one on trial that does not become healthy in time.

Healthy covers the parts that an update can break: the API answers, and onnxruntime computes a correct product. A model
of the user, or the internet, may be missing: going back to the old system would not bring them. The chooser counts
restarts.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from appliance.system import slots, update_state
from appliance.system.slots import UpdateError

_DEADLINE_S = 180.0
_INTERVAL_S = 3.0
_HEALTH = "http://127.0.0.1:8080/health"
_PRODUCT = ["/opt/lantern/bin/python", "-m", "appliance.engine.runtime.product"]
_CMDLINE = Path("/proc/cmdline")


def main() -> int:
    """Return 0 once confirmed, 1 if on trial and not healthy in time: then restart. A system confirmed before stays."""
    version, is_on_trial = slots.running_version(), not slots.is_confirmed()
    end_s = time.monotonic() + _deadline_s(_CMDLINE.read_text("utf-8"))
    while not (_answers() and _computes()):
        if is_on_trial and time.monotonic() > end_s:
            _say(f"{version} is on trial and did not become healthy in time: restarting")
            subprocess.run(["/usr/bin/systemctl", "reboot"], check=False)
            return 1
        time.sleep(_INTERVAL_S)
    slots.confirm()
    update_state.keep(update_state.after_start(update_state.load(), version))
    _say(f"{version} is healthy and confirmed; {_failed_units()}")
    return 0


def _deadline_s(cmdline: str) -> float:
    """Return the seconds until a trial ends; an emulated board sets more: lantern.deadline=SECONDS for the kernel."""
    found = re.search(r"\blantern\.deadline=(\d{1,6})\b", cmdline)
    return float(found[1]) if found else _DEADLINE_S


def _answers() -> bool:
    try:
        with urllib.request.urlopen(_HEALTH, timeout=20) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _computes() -> bool:
    try:
        return subprocess.run(_PRODUCT, check=False, timeout=120).returncode == 0  # noqa: S603
    except subprocess.TimeoutExpired:
        return False


def _failed_units() -> str:
    """Name the failed units for the log: a healthy system may have broken units."""
    command = ["/usr/bin/systemctl", "list-units", "--failed", "--plain", "--no-legend"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()  # noqa: S603
    return f"failed: {', '.join(line.split()[0] for line in lines)}" if lines else "no failed unit"


def _say(text: str) -> None:
    sys.stdout.write(f"lantern-confirm: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UpdateError as err:
        _say(err.message)
        sys.exit(2)
