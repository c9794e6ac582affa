"""The installation of an update, followed by a restart.

Run as `python -m appliance.system.install_update FILE`, or `--poll URL` for a newer one there.

Run as root by lantern-update.service for an update that the appliance received, by lantern-usb@.service for a stick,
and by lantern-poll.service. Only a newer version is installed, and never one that fell back here before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

from appliance.system import slots, update_state
from appliance.system.slots import UpdateError
from appliance.system.update_state import Step

_POLL_TIMEOUT_S = 30.0
_MAX_ANSWER_BYTES = 65536


def main(argv: list[str] | None = None) -> int:
    """Install, and return 0 if the system restarts or nothing is newer, 1 if the update is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", nargs="?", help="the update, a file")
    parser.add_argument("--poll", metavar="URL", help='JSON with "version" and "bundle", the URL of the update')
    parser.add_argument("--remove", action="store_true", help="remove the file when done")
    args = parser.parse_args(argv)
    try:
        if args.poll:
            return _poll(args.poll)
        return _install(args.bundle)
    finally:
        if args.remove:
            Path(args.bundle).unlink(missing_ok=True)


def refusal(version: str, running: str, failed: str, *, is_confirmed: bool, is_interrupted: bool = False) -> str | None:
    """Return the reason why this version is not installed, if there is one.

    An installation that was interrupted, by a power cut for example, is not begun again by itself: if it was what made
    the device restart, the device would restart for ever.

    Raises:
        UpdateError: not a version.
    """
    if not slots.is_newer(version, than=running):
        return f"{version} is not newer than {running}, which runs"
    if version == failed:
        return f"{version} was tried here and did not become healthy"
    if not is_confirmed:
        return "the running system is itself on trial; wait until it is confirmed"
    return update_state.INTERRUPTED if is_interrupted else None


def _install(bundle: str) -> int:
    before = update_state.load()
    state = replace(before, running=slots.running_version(), version="", detail="")
    try:
        version = slots.version_of(bundle)
        state = replace(state, version=version)
        reason = refusal(
            version,
            state.running,
            state.failed,
            is_confirmed=slots.is_confirmed(),
            is_interrupted=before.step is Step.INSTALLING,
        )
        if reason is not None:
            raise UpdateError(reason)
        _say(f"{version} is being installed")
        update_state.keep(replace(state, step=Step.INSTALLING))
        slots.install(bundle)
    except UpdateError as err:
        _say(f"refused: {err.message}")
        update_state.keep(replace(state, step=Step.REFUSED, detail=err.message))
        return 1
    update_state.keep(replace(state, step=Step.RESTARTING))
    _say(f"{version} is installed, starting it")
    subprocess.run(["/usr/bin/systemctl", "reboot"], check=False)
    return 0


def _poll(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=_POLL_TIMEOUT_S) as answer:  # noqa: S310  # settings.py checked it
            offer = json.loads(answer.read(_MAX_ANSWER_BYTES))
        version, bundle = str(offer["version"]), str(offer["bundle"])
        if not bundle.startswith(("https://", "http://")):
            raise ValueError(f"{bundle[:60]!r} is no URL")
    except (OSError, ValueError, KeyError, TypeError) as err:
        _say(f"{url} offers nothing: {err}")
        return 1
    state = update_state.load()
    reason = refusal(version, slots.running_version(), state.failed, is_confirmed=slots.is_confirmed())
    if reason is not None:
        _say(f"nothing to do: {reason}")
        return 0
    return _install(bundle)


def _say(text: str) -> None:
    sys.stdout.write(f"lantern-update: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
