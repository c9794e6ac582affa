"""The administration of a device from elsewhere: what /admin offers, as methods. Lives on the caller's event loop."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import aiohttp

from appliance.remote.answers import Answer, ask
from appliance.remote.push import Progress, push


class RemoteAdministration:
    """One device, by a session whose server was checked and whose key administers."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def overview(self) -> Answer:
        """What is installed, served and free."""
        return await ask(self._session, "GET", "/admin/models")

    async def install(self, path: Path, on_progress: Progress = lambda _done, _all: None) -> Answer:
        """Send a bundle's folder or archive, going on where an earlier try stopped, and let the device install it."""
        return await push(self._session, path, on_progress=on_progress)

    async def remove(self, model: str) -> Answer:
        """Uninstall a model."""
        return await ask(self._session, "DELETE", f"/admin/models/{quote(model, safe='')}")

    async def rollback(self, model: str) -> Answer:
        """Let the version before serve."""
        return await ask(self._session, "POST", f"/admin/models/{quote(model, safe='')}/rollback")

    async def aliases(self) -> dict[str, str]:
        """Alias to model."""
        found: dict[str, str] = (await ask(self._session, "GET", "/admin/aliases"))["aliases"]
        return found

    async def set_alias(self, alias: str, model: str) -> None:
        """Let an alias stand for a model."""
        await ask(self._session, "PUT", f"/admin/aliases/{quote(alias)}", {"model": model})

    async def remove_alias(self, alias: str) -> None:
        """Forget an alias."""
        await ask(self._session, "DELETE", f"/admin/aliases/{quote(alias)}")

    async def trusted(self) -> list[str]:
        """The ids of the keys whose bundles it runs."""
        found: list[str] = (await ask(self._session, "GET", "/admin/trust"))["trusted"]
        return found

    async def trust(self, pem: bytes) -> str:
        """Let it run what this key signed; gives the key's id."""
        body = {"public_key": pem.decode("utf-8", "replace")}
        added: str = (await ask(self._session, "POST", "/admin/trust", body))["added"]
        return added

    async def distrust(self, signer: str) -> None:
        """Let it run nothing more that this key signed."""
        await ask(self._session, "DELETE", f"/admin/trust/{quote(signer, safe='')}")

    async def is_in_safe_mode(self) -> bool:
        """Whether it runs without its models, after it failed several times."""
        return bool((await ask(self._session, "GET", "/admin/safe-mode"))["active"])

    async def leave_safe_mode(self) -> None:
        """Let it start with its models again."""
        await ask(self._session, "DELETE", "/admin/safe-mode")

    async def claim(self, name: str) -> Answer:
        """Claim it; the answer has the key, which is shown once."""
        return await ask(self._session, "POST", "/admin/claim", {"name": name})

    async def keys(self) -> list[Answer]:
        """What keys there are, which is not the keys."""
        found: list[Answer] = (await ask(self._session, "GET", "/admin/keys"))["keys"]
        return found

    async def create_key(self, name: str, *, role: str, rate: int | None) -> Answer:
        """Make a key; the answer has it, once."""
        return await ask(self._session, "POST", "/admin/keys", {"name": name, "role": role, "rate": rate})

    async def revoke_key(self, name: str) -> None:
        """Forget a key."""
        await ask(self._session, "DELETE", f"/admin/keys/{quote(name, safe='')}")
