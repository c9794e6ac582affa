"""Who may ask: bearer keys, compared in constant time against hashes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from appliance.errors import AuthenticationError

_SCHEME = "bearer"


class KeyRing:
    """The accepted keys; without any, everybody is let in and every key is accepted."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = tuple(hashlib.sha256(key.encode()).digest() for key in keys)

    @property
    def is_open(self) -> bool:
        """Whether no key is needed."""
        return not self._hashes

    def check(self, authorization: str | None) -> str:
        """The id of the key that an Authorization header (RFC 6750, section 2.1) brings; "" where none is needed.

        Raises:
            AuthenticationError: no key, malformed, or not one of ours.
        """
        if self.is_open:
            return ""
        if authorization is None:
            raise AuthenticationError(
                "You didn't provide an API key. Send it in an Authorization header: 'Authorization: Bearer YOUR_KEY'."
            )
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != _SCHEME:
            raise AuthenticationError("The Authorization header must have the form 'Bearer YOUR_KEY'.")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._hashes]
        if not any(matches):
            raise AuthenticationError("Incorrect API key provided.")
        return digest.hex()[:16]
