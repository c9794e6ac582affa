"""The administration of a device over the network: the routes below /admin as methods, on the caller's event loop.

Answers are passed on in the types that the server declares, after the fields that commands read were checked
(`answers`). A device of 0.1.0 leaves fields out that are newer, which nothing here reads unasked.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import aiohttp

from appliance.remote import answers
from appliance.remote.bundle_reader import BundleReader
from appliance.remote.push import Progress, push
from appliance.remote.request import request_as, request_json
from appliance.remote.update_upload import UpdateFile, push_update

if TYPE_CHECKING:  # a client does not load the server
    from appliance.access.key_info import ApiKeyInfo, NewApiKey
    from appliance.install.overview import Installation, Overview
    from appliance.server.admin.claim import ClaimedKey
    from appliance.server.admin.device import RequestInfo, RequestList
    from appliance.server.admin.keys import ApiKeyList
    from appliance.server.admin.update import UpdateState


class RemoteAdministration:
    """One device, over a session with a verified server and an administration key."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def overview(self) -> Overview:
        """Return the installed models, and the free space."""
        return cast("Overview", await request_as(answers.OVERVIEW, self._session, "GET", "/admin/models"))

    async def install(self, path: Path, on_progress: Progress = lambda _done, _all: None) -> Installation:
        """Send a bundle's folder or archive, resuming an earlier try, and let the device install it.

        Raises:
            BundleError: `path` is no bundle.
            DeviceError: the device refuses it, or cannot be reached any more.
        """
        reader = await asyncio.to_thread(BundleReader, path)
        try:
            answer = await push(self._session, reader, answers.INSTALLATION, on_progress=on_progress)
        finally:
            await asyncio.to_thread(reader.close)
        installation = {  # without `installed` if it served already: the answer to the beginning of the upload
            "models": answer["models"],
            "storage": answer["storage"],
            "memory": answer["memory"],
            "installed": answer.get("installed"),
        }
        return cast("Installation", installation)

    async def remove(self, model: str) -> Overview:
        """Uninstall a model."""
        path = f"/admin/models/{quote(model, safe='')}"
        return cast("Overview", await request_as(answers.OVERVIEW, self._session, "DELETE", path))

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
        return (await request_as(answers.ALIASES, self._session, "GET", "/admin/aliases"))["aliases"]

    async def set_alias(self, alias: str, model: str) -> None:
        """Point an alias to a model."""
        await request_json(self._session, "PUT", f"/admin/aliases/{quote(alias)}", {"model": model})

    async def remove_alias(self, alias: str) -> None:
        """Remove an alias."""
        await request_json(self._session, "DELETE", f"/admin/aliases/{quote(alias)}")

    async def trusted(self) -> list[str]:
        """Return the ids of the signing keys whose bundles it runs."""
        return (await request_as(answers.TRUSTED, self._session, "GET", "/admin/trust"))["trusted"]

    async def trust(self, pem: bytes) -> str:
        """Let it trust a signing key, and return the key's id."""
        body = {"public_key": pem.decode("utf-8", "replace")}
        return (await request_as(answers.TRUST, self._session, "POST", "/admin/trust", body))["added"]

    async def distrust(self, signer: str) -> None:
        """Let it trust a signing key no longer."""
        await request_json(self._session, "DELETE", f"/admin/trust/{quote(signer, safe='')}")

    async def is_in_safe_mode(self) -> bool:
        """Return whether it runs without its models, after it failed several times."""
        return (await request_as(answers.SAFE_MODE, self._session, "GET", "/admin/safe-mode"))["active"]

    async def leave_safe_mode(self) -> None:
        """Let it start with its models again."""
        await request_json(self._session, "DELETE", "/admin/safe-mode")

    async def restart(self) -> None:
        """Let it start again; running answers get some seconds."""
        await request_json(self._session, "POST", "/admin/restart")

    async def requests(self) -> list[RequestInfo]:
        """Return its last requests, the latest first."""
        answer = await request_as(answers.REQUESTS, self._session, "GET", "/admin/requests")
        return cast("RequestList", answer)["requests"]

    async def claim(self, name: str, *, code: str | None = None) -> ClaimedKey:
        """Claim it with the code that it shows; the answer has the key, which is shown once. 0.1.0 ignores the code."""
        body = {"name": name} if code is None else {"name": name, "code": code}
        return cast("ClaimedKey", await request_as(answers.SECRET, self._session, "POST", "/admin/claim", body))

    async def keys(self) -> list[ApiKeyInfo]:
        """Return the metadata of every key."""
        return cast("ApiKeyList", await request_as(answers.KEYS, self._session, "GET", "/admin/keys"))["keys"]

    async def create_key(self, name: str, *, role: str, rate: int | None) -> NewApiKey:
        """Create a key; the answer has its secret, once."""
        body = {"name": name, "role": role, "rate": rate}
        return cast("NewApiKey", await request_as(answers.SECRET, self._session, "POST", "/admin/keys", body))

    async def revoke_key(self, name: str) -> None:
        """Revoke a key."""
        await request_json(self._session, "DELETE", f"/admin/keys/{quote(name, safe='')}")

    async def update_state(self) -> UpdateState:
        """Return the running version, and the state of the last update."""
        return cast("UpdateState", await request_as(answers.UPDATE, self._session, "GET", "/admin/update"))

    async def send_update(self, update: UpdateFile, on_progress: Progress = lambda _done, _all: None) -> UpdateState:
        """Send an update, resuming an earlier try, and let the device install it; return its state.

        Raises:
            DeviceError: the device refuses it, or cannot be reached any more.
        """
        return await push_update(self._session, update, on_progress=on_progress)

    async def _let(self, model: str, verb: str) -> Overview:
        path = f"/admin/models/{quote(model, safe='')}/{verb}"
        return cast("Overview", await request_as(answers.OVERVIEW, self._session, "POST", path))
