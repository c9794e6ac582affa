"""The names and the certificate of this device, as handlers need them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.identity.certificate import Fingerprints

_HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """The device: `host` is its own name, `alias` returns a shorter one while it holds it; `addresses` blocks."""

    id: str = ""
    host: str = ""
    https_port: int | None = None
    alias: Callable[[], str | None] = lambda: None
    addresses: Callable[[], tuple[str, ...]] = tuple
    fingerprints: Callable[[], Fingerprints | None] = lambda: None

    @property
    def origin(self) -> str | None:
        """Return the origin of the page under the device's own name; None without HTTPS."""
        if self.https_port is None:
            return None
        return f"https://{self.host}" + ("" if self.https_port == _HTTPS_PORT else f":{self.https_port}")

    @property
    def url(self) -> str | None:
        """Return the address of the page under the device's own name; None without HTTPS."""
        return None if self.origin is None else f"{self.origin}/"
