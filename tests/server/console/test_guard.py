"""Pages of other sites: their links lead to the page, and nothing else of theirs gets through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from aiohttp.test_utils import make_mocked_request

from appliance.server.http.guard import Guard, MisdirectedRequestError
from tests.abuse.bare_server import bare_server

NAVIGATION = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx2.Client]:
    with bare_server(tmp_path) as server, httpx2.Client(base_url=f"http://127.0.0.1:{server.port}") as made:
        yield made


def test_a_link_of_another_site_opens_the_page(client: httpx2.Client) -> None:
    assert client.get("/", headers=NAVIGATION).status_code == 200


def test_a_short_name_counts_while_the_device_holds_it() -> None:
    held: list[str] = []
    guard = Guard(host_names=["lantern-00112233.local"], alias=lambda: held[0] if held else None)
    request = make_mocked_request("GET", "/", headers={"Host": "lantern.local:8080"})
    with pytest.raises(MisdirectedRequestError):
        guard.check(request)
    held.append("lantern.local")
    guard.check(request)
    held.clear()
    with pytest.raises(MisdirectedRequestError):
        guard.check(request)


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/console/main.js", "/admin/keys"])
def test_a_link_of_another_site_opens_nothing_else(client: httpx2.Client, path: str) -> None:
    assert client.get(path, headers=NAVIGATION).status_code == 403


@pytest.mark.parametrize(
    "change", [{"sec-fetch-dest": "iframe"}, {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}]
)
def test_another_site_cannot_frame_or_fetch_the_page(client: httpx2.Client, change: dict[str, str]) -> None:
    assert client.get("/", headers={**NAVIGATION, **change}).status_code == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_without_fetch_metadata_the_origin_of_what_changes_something_is_checked(
    client: httpx2.Client, origin: str
) -> None:
    body = {"model": "none", "input": "x"}
    assert client.post("/v1/embeddings", json=body, headers={"origin": origin}).status_code == 403
    assert client.delete("/admin/keys/one", headers={"origin": origin}).status_code == 403
    own = str(client.base_url).rstrip("/")
    assert client.post("/v1/embeddings", json=body, headers={"origin": own}).status_code == 503
    assert client.post("/v1/embeddings", json=body).status_code == 503  # admitted; no model is there
