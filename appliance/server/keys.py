"""Who may ask, and how often: bearer keys, compared in constant time against hashes. Owned by the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from appliance.errors import AuthenticationError, ForbiddenError, OverloadedError
from appliance.keystore import KeyStore, Role

_SCHEME = "bearer"
_MAX_KEY_CHARS = 512


class UnclaimedError(AuthenticationError):
    """No key can be right, since there is none yet."""

    code = "unclaimed"


class RateLimitError(OverloadedError):
    """This key asks more often than it may."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request it is; the id is "" where no key is needed, which never administers."""

    id: str = ""
    role: Role = Role.INFERENCE

    def require(self, role: Role) -> None:
        """Refuse what this key is not for.

        Raises:
            ForbiddenError: it is a key for inference.
        """
        if role is Role.ADMINISTRATION and self.role is not role:
            raise ForbiddenError("This key is for inference; administration needs a key made with --admin.")


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    caller: Caller
    rate: int | None = None


class KeyRing:
    """The accepted keys: those of the settings, and those of the store as it is now.

    Without any, everybody is let in, unless `required`; once there was a key, none is let in without one again. Nobody
    administers without one at all.
    """

    def __init__(
        self,
        keys: Iterable[str],
        *,
        store: KeyStore | None = None,
        required: bool = False,
        is_claimable: bool = False,
        local_key: str | None = None,
        refresh_interval_s: float = 0.5,
    ) -> None:
        """`local_key` is for commands on this machine, and does not count as a key that others need."""
        digests = [_digest(key) for key in keys]
        self._fixed = [_Known(d, Caller(d.hex()[:12], Role.ADMINISTRATION)) for d in digests]
        self._local = [_Known(_digest(k), Caller("local", Role.ADMINISTRATION)) for k in (local_key,) if k is not None]
        self._is_claimable = is_claimable
        self._stored: list[_Known] = []
        self._store = store
        self._is_required = required or bool(self._fixed)
        self._refresh_interval_s = refresh_interval_s
        self._refreshed_s = -math.inf
        self._version: object = None
        self._buckets: dict[str, _Bucket] = {}
        if store is not None:
            self._read()

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._is_required

    @property
    def is_unclaimed(self) -> bool:
        """Whether a key is needed, there is none, and somebody may claim the device."""
        return self._is_claimable and self._is_required and not (self._fixed or self._stored)

    async def admit(self, authorizations: Sequence[str], *, role: Role = Role.INFERENCE) -> Caller:
        """Whose request, which needs this role, carries these Authorization headers (RFC 6750, section 2.1).

        Raises:
            AuthenticationError: no key, malformed, or not one of ours.
            ForbiddenError: a key that has not that role.
            RateLimitError: a key that asks too often.
        """
        if self._store is not None and time.monotonic() - self._refreshed_s >= self._refresh_interval_s:
            await self.refresh()
        if self.is_open and role is Role.INFERENCE:
            return Caller()
        if self.is_unclaimed and (role is Role.INFERENCE or not authorizations):
            raise UnclaimedError("This device serves nobody before it is claimed; claim it with: lantern claim NAME")
        digest = _digest(_bearer(authorizations))
        everybody = (*self._fixed, *self._local, *self._stored)
        matches = [known for known in everybody if hmac.compare_digest(digest, known.digest)]
        if not matches:
            raise AuthenticationError("Incorrect API key provided.")
        known = matches[0]
        if known.rate is not None:
            self._buckets.setdefault(known.caller.id, _Bucket(known.rate)).take()
        known.caller.require(role)
        return known.caller

    async def refresh(self) -> None:
        """See at once which keys there are now."""
        if self._store is not None:
            await asyncio.to_thread(self._read)

    def _read(self) -> None:
        """Look whether the store changed; runs in a thread, and replaces the list in one assignment."""
        assert self._store is not None
        version = self._store.version()
        if version != self._version:
            keys = self._store.all()
            self._stored = [_Known(bytes.fromhex(k.sha256), Caller(k.id, k.role), k.rate) for k in keys]
            self._is_required = self._is_required or bool(keys)
            self._version = version
        self._refreshed_s = time.monotonic()


class _Bucket:
    """A token bucket: a minute's worth at once, then evenly."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._tokens = float(rate)
        self._filled_s = time.monotonic()

    def take(self) -> None:
        now_s = time.monotonic()
        self._tokens = min(float(self._rate), self._tokens + (now_s - self._filled_s) * self._rate / 60)
        self._filled_s = now_s
        if self._tokens < 1:
            raise RateLimitError(
                f"This key may send {self._rate} requests a minute; wait before the next one.",
                retry_after_s=math.ceil((1 - self._tokens) * 60 / self._rate),
            )
        self._tokens -= 1


def _bearer(authorizations: Sequence[str]) -> str:
    if not authorizations:
        raise AuthenticationError(
            "You didn't provide an API key. Send it in an Authorization header: 'Authorization: Bearer YOUR_KEY'."
        )
    scheme, _, key = authorizations[0].partition(" ")
    key = key.strip()
    if len(authorizations) > 1 or scheme.lower() != _SCHEME or not 0 < len(key) <= _MAX_KEY_CHARS:
        raise AuthenticationError("Send exactly one Authorization header, of the form 'Bearer YOUR_KEY'.")
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
