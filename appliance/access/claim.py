"""The claim of a new device: its first administration key goes to the first client that proves presence, once.

A client on another machine proves it by the code that the device shows (`claim_code`); a client on this machine needs
none. Open until a key exists or ever existed, from the settings, a command or a claim. Opened again for one claim by a
restart with `--reopen-claim`, or by a file on the boot partition: it counts once, by its time and size, since the
service cannot delete it. Methods block; any thread may call them.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from appliance.access.claim_code import ClaimCode
from appliance.access.keystore import KeyStore, NewKey, Role
from appliance.errors import ConflictError
from appliance.host.files import write_atomically

_MAX_MARKER_BYTES = 4096
_FIRST_POSSIBLE_S = 1_767_225_600  # 2026: a board without a clock starts in 1970


class ClaimedError(ConflictError):
    """A claim of a device that is claimed already."""

    code = "already_claimed"


@dataclass(frozen=True, slots=True)
class Claimant:
    """A client that wants the device: the name of its key, its address, and the code, which a local one needs not."""

    name: str
    address: str = ""
    code: str | None = None
    is_local: bool = True


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """The claim of a device as it was remembered; empty fields are unknown, as after a start with keys of commands."""

    name: str = ""
    address: str = ""
    claimed_s: int = 0

    def sentence(self) -> str:
        """Return who claimed the device, from where and when, as far as that is known."""
        by = f" by {self.name}" if self.name else ""
        place = f" from {self.address}" if self.address else ""
        is_dated = self.name and self.claimed_s >= _FIRST_POSSIBLE_S
        when = time.strftime(" on %Y-%m-%d at %H:%M UTC", time.gmtime(self.claimed_s)) if is_dated else ""
        return f"This device is claimed{by}{place}{when}."


def read_claim(marker: Path) -> ClaimRecord | None:
    """Return the claim that the file `marker` remembers; None if there was none."""
    if not marker.exists():
        return None
    seen = _read(marker)
    name, address, claimed_s = seen.get("name"), seen.get("address"), seen.get("claimed_s")
    return ClaimRecord(
        name if isinstance(name, str) else "",
        address if isinstance(address, str) else "",
        claimed_s if isinstance(claimed_s, int) else 0,
    )


class Claiming:
    """The claim of one device. The file `marker` keeps over restarts that it was claimed."""

    def __init__(
        self,
        keys: KeyStore,
        marker: Path,
        *,
        is_enabled: bool,
        has_fixed_key: bool = False,
        is_reopened: bool = False,
        ticket: Path | None = None,
        code: ClaimCode | None = None,
    ) -> None:
        """`ticket` is the file that opens the claim again; without a `code` the first client may claim."""
        self._keys = keys
        self._marker = marker
        self._is_enabled = is_enabled
        self._has_fixed_key = has_fixed_key
        self._is_reopened = is_reopened
        self._ticket = ticket
        self._code = code
        self._lock = threading.Lock()

    @property
    def is_enabled(self) -> bool:
        """True if the settings let the device be claimed."""
        return self._is_enabled

    def start(self) -> None:
        """Write the marker if keys exist, so that revoking the last one opens nothing; make the code, or drop it."""
        if self._keys.all() and not self._marker.exists():
            self._remember("")
        if self._code is not None:
            if self.is_open():
                self._code.ensure()
            else:
                self._code.spend()

    @property
    def needs_code(self) -> bool:
        """True if other machines need the code."""
        return self._code is not None

    def record(self) -> ClaimRecord | None:
        """Return the latest claim; None before the first one."""
        return read_claim(self._marker)

    def is_open(self) -> bool:
        """Return whether a claim would be granted now."""
        if not self._is_enabled:
            return False
        if self._is_reopened or self._ticket_identity() not in {"", _read(self._marker).get("ticket", "")}:
            return True
        return not (self._has_fixed_key or self._marker.exists() or self._keys.all())

    def claim(self, claimant: Claimant) -> NewKey:
        """Create the first administration key.

        Raises:
            ClaimedError: the device is claimed.
            ClaimCodeError: a client on another machine that does not know the code.
            ClaimAttemptsError: too many wrong codes within a minute.
            ConfigError: the name is not valid.
            ConflictError: the name is taken.
        """
        with self._lock:
            if not self.is_open():
                record = self.record() or ClaimRecord()
                raise ClaimedError(
                    f"{record.sentence()} Whoever holds an administration key can make more keys; to claim it anew, "
                    "restart it with --reopen-claim, or put the file of server.claim_file on it."
                )
            if self._code is not None and not (claimant.is_local and claimant.code is None):
                self._code.check(claimant.code)
            new = self._keys.create(claimant.name, role=Role.ADMINISTRATION)
            self._remember(claimant.name, claimant.address)
            self._is_reopened = False
            if self._code is not None:
                self._code.spend()
            return new

    def _remember(self, name: str, address: str = "") -> None:
        ticket = self._ticket_identity()
        record = {"name": name, "address": address, "claimed_s": int(time.time()), "ticket": ticket}
        write_atomically(self._marker, json.dumps(record).encode())

    def _ticket_identity(self) -> str:
        """Return the ticket file's identity, its mtime and size; empty if there is no file."""
        if self._ticket is None:
            return ""
        try:
            status = self._ticket.stat()
        except OSError:
            return ""
        return f"{status.st_mtime_ns}-{status.st_size}"


def _read(marker: Path) -> dict[str, object]:
    try:
        seen = json.loads(marker.read_bytes()[:_MAX_MARKER_BYTES])
    except (OSError, ValueError):
        return {}
    return seen if isinstance(seen, dict) else {}
