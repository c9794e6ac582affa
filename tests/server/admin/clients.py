"""A device under administration: a real server over a home of its own, and what an administrator's client does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from appliance.home import Home
from tests.conftest import RunningServer, a_config, serving
from tests.install.tiny_bundles import TinyDevice

KEY = "sk-the-administrator"


@dataclass(frozen=True, slots=True)
class Administrator:
    """Requests with a key."""

    server: RunningServer
    key: str | None = KEY

    def ask(self, method: str, path: str, body: object = None, **options: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        headers |= options.pop("headers", {})
        more: dict[str, Any] = {} if body is None else {"json": body}
        return httpx2.request(method, f"{self.server.root_url}{path}", headers=headers, timeout=120, **more, **options)

    def begin(self, made: Path) -> httpx2.Response:
        manifest, signature = ((made / n).read_text("utf-8") for n in ("manifest.json", "manifest.sig"))
        return self.ask("POST", "/admin/uploads", {"manifest": manifest, "signature": signature})

    def put(self, upload_id: str, name: str, data: bytes, *, content_range: str | None = None) -> httpx2.Response:
        headers = {"content-type": "application/octet-stream"}
        headers |= {"content-range": content_range} if content_range is not None else {}
        return self.ask("PUT", f"/admin/uploads/{upload_id}/files/{name}", content=data, headers=headers)

    def send(self, made: Path) -> str:
        """Everything but the install."""
        upload: dict[str, Any] = self.begin(made).json()
        for entry in upload["files"]:
            data = (made / entry["name"]).read_bytes()[entry["received"] :]
            size, first = entry["size_bytes"], entry["received"]
            if data:
                answer = self.put(upload["id"], entry["name"], data, content_range=f"bytes {first}-{size - 1}/{size}")
                assert answer.status_code == 200, answer.text
        upload_id: str = upload["id"]
        return upload_id

    def push(self, made: Path) -> httpx2.Response:
        return self.ask("POST", f"/admin/uploads/{self.send(made)}/install")

    def vector(self, *, model: str = "tiny") -> list[float]:
        answer = self.ask("POST", "/v1/embeddings", {"model": model, "input": "The lantern on the shelf"})
        assert answer.status_code == 200, answer.text
        vector: list[float] = answer.json()["data"][0]["embedding"]
        return vector


@contextmanager
def administered(device: TinyDevice, **server: object) -> Iterator[Administrator]:
    with serving(a_config(server={"keys": [KEY], **server}), Home(device.root / "home")) as running:
        yield Administrator(running)


def own_address() -> str | None:
    """An IPv4 address of this machine under which it is not itself."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family.name == "AF_INET" and not address.address.startswith("127."):
                return str(address.address)
    return None


def need_own_address() -> str:
    """Return such an address; skip the test on a machine without a network, on which no client is another machine."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    return address


def error_of(response: httpx2.Response) -> dict[str, Any]:
    body = json.loads(response.text)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error
