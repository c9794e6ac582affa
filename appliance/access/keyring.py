"""The keys that the server accepts, and their rates: compared in constant time as hashes. Owned by the event loop."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from appliance.access.keystore import KeyStore, Role
from appliance.errors import AuthenticationError, ForbiddenError, OverloadedError

_SCHEME = "bearer"
_MAX_KEY_CHARS = 512


class UnclaimedError(AuthenticationError):
    """A request to a device that has no key yet."""

    code = "unclaimed"


class RateLimitError(OverloadedError):
    """A key that sends more requests than its rate allows."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Caller:
    """The key of a request; the id is "" for a request without a key, which never administers."""

    id: str = ""
    role: Role = Role.INFERENCE

    def require(self, role: Role) -> None:
        """Refuse a key that has not this role.

        Raises:
            ForbiddenError: administration with a key for inference.
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

    Without any key, all requests are admitted, unless `required`; once there was a key, every request needs one.
    Administration always needs one.
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
        """`local_key` is for commands on this machine; it does not make other clients need a key."""
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
        self._last_used_s: dict[str, int] = {}
        if store is not None:
            self.read()

    @property
    def is_open(self) -> bool:
        """True if no key is needed."""
        return not self._is_required

    @property
    def is_unclaimed(self) -> bool:
        """True if a key is needed, none exists, and the device may be claimed."""
        return self._is_claimable and self._is_required and not (self._fixed or self._stored)

    @property
    def key_ids(self) -> frozenset[str]:
        """Return the ids of all callers who can be admitted, with "" for those without a key."""
        return frozenset({"", *(known.caller.id for known in (*self._fixed, *self._local, *self._stored))})

    async def admit(self, authorizations: Sequence[str], *, role: Role = Role.INFERENCE) -> Caller:
        """Return the key of a request with these Authorization headers (RFC 6750, section 2.1), which needs this role.

        Raises:
            AuthenticationError: no key, malformed, or not one of ours.
            ForbiddenError: a key without that role.
            RateLimitError: the key's rate is exceeded.
        """
        if self._store is not None and time.monotonic() - self._refreshed_s >= self._refresh_interval_s:
            await self.refresh()
        if self.is_open and role is Role.INFERENCE:
            return Caller()
        if self.is_unclaimed and (role is Role.INFERENCE or not authorizations):
            raise UnclaimedError(
                "This device serves nobody before it is claimed; open its page in a browser, or claim it with: "
                "lantern claim --device NAME"
            )
        digest = _digest(_bearer(authorizations))
        everybody = (*self._fixed, *self._local, *self._stored)
        matches = [known for known in everybody if hmac.compare_digest(digest, known.digest)]
        if not matches:
            raise AuthenticationError("Incorrect API key provided.")
        known = matches[0]
        if known.rate is not None:
            self._bucket_of(known.caller.id, known.rate).take()
        known.caller.require(role)
        self._last_used_s[known.caller.id] = int(time.time())
        return known.caller

    def remember_use(self, last_used_s: Mapping[str, int]) -> None:
        """Take the times of an earlier run; those of this run count first."""
        self._last_used_s = {**last_used_s, **self._last_used_s}

    def last_used_s(self) -> dict[str, int]:
        """Return the time of each used key's last admitted request, in seconds since 1970, by the key's id."""
        return dict(self._last_used_s)

    def _bucket_of(self, key_id: str, rate: int) -> _Bucket:
        """Return the bucket of a key; a full one if its rate is new."""
        bucket = self._buckets.get(key_id)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[key_id] = _Bucket(rate)
        return bucket

    async def refresh(self) -> None:
        """Read the store again, if it changed."""
        await asyncio.to_thread(self.read)

    def read(self) -> None:
        """Read the store again, if it changed; blocks, in any thread, and replaces the list in one assignment."""
        if self._store is None:
            return
        version = self._store.version()
        if version != self._version:
            keys = self._store.all()
            self._stored = [_Known(bytes.fromhex(k.sha256), Caller(k.id, k.role), k.rate) for k in keys]
            self._is_required = self._is_required or bool(keys)
            self._version = version
        self._refreshed_s = time.monotonic()


class _Bucket:
    """A token bucket: the requests of a minute at once, then evenly."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._tokens = float(rate)
        self._filled_s = time.monotonic()

    def take(self) -> None:
        now_s = time.monotonic()
        self._tokens = min(float(self.rate), self._tokens + (now_s - self._filled_s) * self.rate / 60)
        self._filled_s = now_s
        if self._tokens < 1:
            raise RateLimitError(
                f"This key may send {self.rate} requests a minute; wait before the next one.",
                retry_after_s=math.ceil((1 - self._tokens) * 60 / self.rate),
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
