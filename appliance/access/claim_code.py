"""The one-time code that proves presence: shown on the device, and asked for by a claim from another machine.

Eight characters of Crockford's base32 are 40 bits; five wrong ones a minute, of all clients together, are the limit.
The file keeps the code over restarts until the device is claimed.
"""

from __future__ import annotations

import contextlib
import hmac
import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from appliance.errors import ForbiddenError, OverloadedError
from appliance.host.files import write_atomically

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_NUM_CHARS = 8
_GROUP = 4
_MAX_BYTES = 256
_ALIKE = str.maketrans({"O": "0", "I": "1", "L": "1"})


class ClaimCodeError(ForbiddenError):
    """A claim from another machine without the code, or with a wrong one."""

    code = "claim_code_required"


class ClaimAttemptsError(OverloadedError):
    """Too many wrong codes within a minute; a right one is not looked at either."""

    code = "too_many_claim_codes"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClaimCode:
    """The code of one device, in `path` while it can be claimed. Methods block; the caller holds a lock."""

    def __init__(
        self,
        path: Path,
        *,
        preset: str = "",
        max_wrong: int = 5,
        window_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`preset` is a code of the settings, which is used instead of a random one."""
        self._path = path
        self._preset = preset
        self._max_wrong = max_wrong
        self._window_s = window_s
        self._clock = clock
        self._wrong_s: deque[float] = deque()

    def ensure(self) -> str:
        """Return the code; make it if there is none, and take the preset one whatever the file has."""
        kept = read_code(self._path)
        wanted = grouped(self._preset) or kept or grouped("".join(secrets.choice(_ALPHABET) for _ in range(_NUM_CHARS)))
        if wanted != kept:
            write_atomically(self._path, f"{wanted}\n".encode())
        return wanted

    def spend(self) -> None:
        """Remove the code: the device is claimed."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def check(self, given: str | None) -> None:
        """Compare a code that a client sent.

        Raises:
            ClaimCodeError: none was sent, or a wrong one.
            ClaimAttemptsError: five were wrong within the last minute.
        """
        right = self.ensure()
        if given is None:
            raise ClaimCodeError(
                "This device is claimed with the code on its screen, which is also in claim-code.txt on its card. Open "
                "its page in a browser and enter the code, or use lantern 0.2.0 or newer: "
                "lantern claim --device NAME --code CODE"
            )
        now_s = self._clock()
        while self._wrong_s and now_s - self._wrong_s[0] >= self._window_s:
            self._wrong_s.popleft()
        if len(self._wrong_s) >= self._max_wrong:
            raise ClaimAttemptsError(
                f"{self._max_wrong} wrong codes came within a minute, so that none is looked at now; wait, then enter "
                "the code that the device shows.",
                retry_after_s=max(1, math.ceil(self._window_s - (now_s - self._wrong_s[0]))),
            )
        if not hmac.compare_digest(plain(given).encode(), plain(right).encode()):
            self._wrong_s.append(now_s)
            raise ClaimCodeError(
                "This is not the code of the device; compare it with the screen, or with claim-code.txt on the card.",
                code="wrong_claim_code",
            )


def read_code(path: Path) -> str | None:
    """Return the code that a claim needs now; None if there is none, or it cannot be read."""
    try:
        text = path.read_bytes()[:_MAX_BYTES].decode("ascii", "replace").strip()
    except OSError:
        return None
    return text if len(plain(text)) >= _NUM_CHARS else None


def plain(text: str) -> str:
    """Return a code as it is compared: capitals without dashes and spaces; letters that look like digits are digits."""
    return "".join(c for c in text.upper() if c not in "- \t").translate(_ALIKE)


def grouped(text: str) -> str:
    """Return a code as it is shown, in groups of four characters."""
    chars = plain(text)
    return "-".join(chars[i : i + _GROUP] for i in range(0, len(chars), _GROUP))
