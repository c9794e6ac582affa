"""Claiming: a new device's first administration key goes to whoever asks first, once.

Open until there is a key, or ever was one, by the settings, by command or by a claim. Opened again for one claim by
whoever can restart the service (`--reopen-claim`) or write to the boot partition: a file there counts once, by its time
and size, since the service cannot delete it. Methods block; any thread may call them.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from appliance.errors import ConflictError
from appliance.files import write_whole
from appliance.keystore import KeyStore, NewKey, Role


class ClaimedError(ConflictError):
    """Somebody has claimed this device already."""

    code = "already_claimed"


class Claiming:
    """Whether this device can be claimed. `marker` remembers over restarts that it was."""

    def __init__(
        self,
        keys: KeyStore,
        marker: Path,
        *,
        is_enabled: bool,
        has_fixed_key: bool = False,
        is_reopened: bool = False,
        ticket: Path | None = None,
    ) -> None:
        """`ticket` is the file that opens it again."""
        self._keys = keys
        self._marker = marker
        self._is_enabled = is_enabled
        self._has_fixed_key = has_fixed_key
        self._is_reopened = is_reopened
        self._ticket = ticket
        self._lock = threading.Lock()

    @property
    def is_enabled(self) -> bool:
        """Whether claiming was switched on at all."""
        return self._is_enabled

    def start(self) -> None:
        """Remember keys that came about otherwise, so that revoking the last one does not open the device."""
        if self._keys.all() and not self._marker.exists():
            self._remember("")

    def is_open(self) -> bool:
        """Whether a claim would be granted now."""
        if not self._is_enabled:
            return False
        if self._is_reopened or self._ticket_identity() not in {"", self._seen().get("ticket", "")}:
            return True
        return not (self._has_fixed_key or self._marker.exists() or self._keys.all())

    def claim(self, name: str) -> NewKey:
        """Make the administration key of whoever claims the device.

        Raises:
            ClaimedError: it is claimed.
            ConfigError: the name is not valid, or taken.
        """
        with self._lock:
            if not self.is_open():
                raise ClaimedError(
                    "This device is claimed. Whoever holds an administration key can make more keys; to claim it anew, "
                    "restart it with --reopen-claim, or put the file of server.claim_file on it."
                )
            new = self._keys.create(name, role=Role.ADMINISTRATION)
            self._remember(name)
            self._is_reopened = False
            return new

    def _remember(self, name: str) -> None:
        record = {"name": name, "claimed_s": int(time.time()), "ticket": self._ticket_identity()}
        write_whole(self._marker, json.dumps(record).encode())

    def _seen(self) -> dict[str, object]:
        try:
            seen = json.loads(self._marker.read_bytes()[:4096])
        except (OSError, ValueError):
            return {}
        return seen if isinstance(seen, dict) else {}

    def _ticket_identity(self) -> str:
        """What tells this file from one that was put there later; empty where there is none."""
        if self._ticket is None:
            return ""
        try:
            status = self._ticket.stat()
        except OSError:
            return ""
        return f"{status.st_mtime_ns}-{status.st_size}"
