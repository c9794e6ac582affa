"""The administration of a device over the network: the routes below /admin as methods, on the caller's event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

import aiohttp

from appliance.remote.bundle_reader import BundleReader
from appliance.remote.push import Progress, push
from appliance.remote.request import Answer, request_json
from appliance.remote.update_upload import UpdateFile, push_update


class RemoteAdministration:
    """One device, over a session with a verified server and an administration key."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def overview(self) -> Answer:
        """Return the installed models, and the free space."""
        return await request_json(self._session, "GET", "/admin/models")

    async def install(self, path: Path, on_progress: Progress = lambda _done, _all: None) -> Answer:
        """Send a bundle's folder or archive, resuming an earlier try, and let the device install it.

        Raises:
            BundleError: `path` is no bundle.
            DeviceError: the device refuses it, or cannot be reached any more.
        """
        reader = await asyncio.to_thread(BundleReader, path)
        try:
            return await push(self._session, reader, on_progress=on_progress)
        finally:
            await asyncio.to_thread(reader.close)

    async def remove(self, model: str) -> Answer:
        """Uninstall a model."""
        return await request_json(self._session, "DELETE", f"/admin/models/{quote(model, safe='')}")

    async def rollback(self, model: str) -> Answer:
        """Activate the version before the active one."""
        return await request_json(self._session, "POST", f"/admin/models/{quote(model, safe='')}/rollback")

    async def load(self, model: str) -> Answer:
        """Load a model now; the answer is the overview."""
        return await request_json(self._session, "POST", f"/admin/models/{quote(model, safe='')}/load")

    async def unload(self, model: str) -> Answer:
        """Free the memory of a model until a request needs it; the answer is the overview."""
        return await request_json(self._session, "POST", f"/admin/models/{quote(model, safe='')}/unload")

    async def aliases(self) -> dict[str, str]:
        """Return alias to model."""
        found: dict[str, str] = (await request_json(self._session, "GET", "/admin/aliases"))["aliases"]
        return found

    async def set_alias(self, alias: str, model: str) -> None:
        """Point an alias to a model."""
        await request_json(self._session, "PUT", f"/admin/aliases/{quote(alias)}", {"model": model})

    async def remove_alias(self, alias: str) -> None:
        """Remove an alias."""
        await request_json(self._session, "DELETE", f"/admin/aliases/{quote(alias)}")

    async def trusted(self) -> list[str]:
        """Return the ids of the signing keys whose bundles it runs."""
        found: list[str] = (await request_json(self._session, "GET", "/admin/trust"))["trusted"]
        return found

    async def trust(self, pem: bytes) -> str:
        """Let it trust a signing key, and return the key's id."""
        body = {"public_key": pem.decode("utf-8", "replace")}
        added: str = (await request_json(self._session, "POST", "/admin/trust", body))["added"]
        return added

    async def distrust(self, signer: str) -> None:
        """Let it trust a signing key no longer."""
        await request_json(self._session, "DELETE", f"/admin/trust/{quote(signer, safe='')}")

    async def is_in_safe_mode(self) -> bool:
        """Return whether it runs without its models, after it failed several times."""
        return bool((await request_json(self._session, "GET", "/admin/safe-mode"))["active"])

    async def leave_safe_mode(self) -> None:
        """Let it start with its models again."""
        await request_json(self._session, "DELETE", "/admin/safe-mode")

    async def restart(self) -> None:
        """Let it start again; running answers get some seconds."""
        await request_json(self._session, "POST", "/admin/restart")

    async def requests(self) -> list[Answer]:
        """Return its last requests, the latest first."""
        found: list[Answer] = (await request_json(self._session, "GET", "/admin/requests"))["requests"]
        return found

    async def claim(self, name: str, *, code: str | None = None) -> Answer:
        """Claim it with the code that it shows; the answer has the key, which is shown once. 0.1.0 ignores the code."""
        body = {"name": name} if code is None else {"name": name, "code": code}
        return await request_json(self._session, "POST", "/admin/claim", body)

    async def keys(self) -> list[Answer]:
        """Return the metadata of every key."""
        found: list[Answer] = (await request_json(self._session, "GET", "/admin/keys"))["keys"]
        return found

    async def create_key(self, name: str, *, role: str, rate: int | None) -> Answer:
        """Create a key; the answer has its secret, once."""
        return await request_json(self._session, "POST", "/admin/keys", {"name": name, "role": role, "rate": rate})

    async def revoke_key(self, name: str) -> None:
        """Revoke a key."""
        await request_json(self._session, "DELETE", f"/admin/keys/{quote(name, safe='')}")

    async def update_state(self) -> Answer:
        """Return the running version, and the state of the last update."""
        return await request_json(self._session, "GET", "/admin/update")

    async def send_update(self, update: UpdateFile, on_progress: Progress = lambda _done, _all: None) -> Answer:
        """Send an update, resuming an earlier try, and let the device install it; return its state.

        Raises:
            DeviceError: the device refuses it, or cannot be reached any more.
        """
        return await push_update(self._session, update, on_progress=on_progress)
