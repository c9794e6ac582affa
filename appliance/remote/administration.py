"""The administration of a device over the network: the routes below /admin as methods, on the caller's event loop.

Answers have the types that the server declares; a device of 0.1.0 may leave fields out that are newer.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import aiohttp

from appliance.remote.bundle_reader import BundleReader
from appliance.remote.push import Progress, push
from appliance.remote.request import request_json
from appliance.remote.update_upload import UpdateFile, push_update

if TYPE_CHECKING:  # a client does not load the server
    from appliance.install.overview import Installation, Overview
    from appliance.server.admin.aliases import AliasMap
    from appliance.server.admin.claim import ClaimedKey
    from appliance.server.admin.device import RequestInfo, RequestList
    from appliance.server.admin.keys import ApiKeyInfo, ApiKeyList, NewApiKey
    from appliance.server.admin.safe_mode import SafeMode
    from appliance.server.admin.trust import TrustedKeyList
    from appliance.server.admin.update import UpdateState
    from appliance.server.admin.uploads import Installed


class RemoteAdministration:
    """One device, over a session with a verified server and an administration key."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def overview(self) -> Overview:
        """Return the installed models, and the free space."""
        return cast("Overview", await request_json(self._session, "GET", "/admin/models"))

    async def install(self, path: Path, on_progress: Progress = lambda _done, _all: None) -> Installation:
        """Send a bundle's folder or archive, resuming an earlier try, and let the device install it.

        Raises:
            BundleError: `path` is no bundle.
            DeviceError: the device refuses it, or cannot be reached any more.
        """
        reader = await asyncio.to_thread(BundleReader, path)
        try:
            answer = cast("Installed", await push(self._session, reader, on_progress=on_progress))
        finally:
            await asyncio.to_thread(reader.close)
        return {  # without `installed` if it served already: the answer to the beginning of the upload
            "models": answer["models"],
            "storage": answer["storage"],
            "memory": answer["memory"],
            "installed": answer.get("installed"),
        }

    async def remove(self, model: str) -> Overview:
        """Uninstall a model."""
        return cast("Overview", await request_json(self._session, "DELETE", f"/admin/models/{quote(model, safe='')}"))

    async def rollback(self, model: str) -> Overview:
        """Activate the version before the active one."""
        return await self._let(model, "rollback")

    async def load(self, model: str) -> Overview:
        """Load a model now; the answer is the overview."""
        return await self._let(model, "load")

    async def unload(self, model: str) -> Overview:
        """Free the memory of a model until a request needs it; the answer is the overview."""
        return await self._let(model, "unload")

    async def aliases(self) -> dict[str, str]:
        """Return alias to model."""
        return cast("AliasMap", await request_json(self._session, "GET", "/admin/aliases"))["aliases"]

    async def set_alias(self, alias: str, model: str) -> None:
        """Point an alias to a model."""
        await request_json(self._session, "PUT", f"/admin/aliases/{quote(alias)}", {"model": model})

    async def remove_alias(self, alias: str) -> None:
        """Remove an alias."""
        await request_json(self._session, "DELETE", f"/admin/aliases/{quote(alias)}")

    async def trusted(self) -> list[str]:
        """Return the ids of the signing keys whose bundles it runs."""
        return cast("TrustedKeyList", await request_json(self._session, "GET", "/admin/trust"))["trusted"]

    async def trust(self, pem: bytes) -> str:
        """Let it trust a signing key, and return the key's id."""
        body = {"public_key": pem.decode("utf-8", "replace")}
        return cast("TrustedKeyList", await request_json(self._session, "POST", "/admin/trust", body))["added"]

    async def distrust(self, signer: str) -> None:
        """Let it trust a signing key no longer."""
        await request_json(self._session, "DELETE", f"/admin/trust/{quote(signer, safe='')}")

    async def is_in_safe_mode(self) -> bool:
        """Return whether it runs without its models, after it failed several times."""
        return cast("SafeMode", await request_json(self._session, "GET", "/admin/safe-mode"))["active"]

    async def leave_safe_mode(self) -> None:
        """Let it start with its models again."""
        await request_json(self._session, "DELETE", "/admin/safe-mode")

    async def restart(self) -> None:
        """Let it start again; running answers get some seconds."""
        await request_json(self._session, "POST", "/admin/restart")

    async def requests(self) -> list[RequestInfo]:
        """Return its last requests, the latest first."""
        return cast("RequestList", await request_json(self._session, "GET", "/admin/requests"))["requests"]

    async def claim(self, name: str, *, code: str | None = None) -> ClaimedKey:
        """Claim it with the code that it shows; the answer has the key, which is shown once. 0.1.0 ignores the code."""
        body = {"name": name} if code is None else {"name": name, "code": code}
        return cast("ClaimedKey", await request_json(self._session, "POST", "/admin/claim", body))

    async def keys(self) -> list[ApiKeyInfo]:
        """Return the metadata of every key."""
        return cast("ApiKeyList", await request_json(self._session, "GET", "/admin/keys"))["keys"]

    async def create_key(self, name: str, *, role: str, rate: int | None) -> NewApiKey:
        """Create a key; the answer has its secret, once."""
        body = {"name": name, "role": role, "rate": rate}
        return cast("NewApiKey", await request_json(self._session, "POST", "/admin/keys", body))

    async def revoke_key(self, name: str) -> None:
        """Revoke a key."""
        await request_json(self._session, "DELETE", f"/admin/keys/{quote(name, safe='')}")

    async def update_state(self) -> UpdateState:
        """Return the running version, and the state of the last update."""
        return cast("UpdateState", await request_json(self._session, "GET", "/admin/update"))

    async def send_update(self, update: UpdateFile, on_progress: Progress = lambda _done, _all: None) -> UpdateState:
        """Send an update, resuming an earlier try, and let the device install it; return its state.

        Raises:
            DeviceError: the device refuses it, or cannot be reached any more.
        """
        return await push_update(self._session, update, on_progress=on_progress)

    async def _let(self, model: str, verb: str) -> Overview:
        path = f"/admin/models/{quote(model, safe='')}/{verb}"
        return cast("Overview", await request_json(self._session, "POST", path))
