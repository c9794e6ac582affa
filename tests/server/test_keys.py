"""Keys on the wire: nothing without one, nothing after it was revoked, nothing of another's cache."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from appliance.access.keyring import KeyRing, RateLimitError
from appliance.access.keystore import KeyStore, Role
from appliance.errors import AuthenticationError
from appliance.home import Home
from appliance.server.app import ROUTES
from tests.conftest import RunningServer, a_config, serving

MODEL = "smollm2-135m-instruct"
FIRST = "sk-the-first-key"


@pytest.fixture(scope="module")
def home(starter_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("home")
    shutil.copytree(starter_home.root / "keys", root / "keys")
    (root / "bundles").symlink_to(starter_home.bundles)
    return Home(root)


@pytest.fixture(scope="module")
def locked(home: Home) -> Iterator[RunningServer]:
    with serving(a_config(server={"keys": [FIRST]}), home) as running:
        yield running


def get(server: RunningServer, path: str, secret: str | None) -> httpx2.Response:
    headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
    return httpx2.get(f"{server.root_url}{path}", headers=headers)


def until(status: int, server: RunningServer, secret: str, timeout_s: float = 5.0) -> httpx2.Response:
    """Ask until the change has been noticed."""
    deadline = time.monotonic() + timeout_s
    while (response := get(server, "/v1/models", secret)).status_code != status:
        assert time.monotonic() < deadline
    return response


def test_no_route_but_liveness_answers_without_a_key(locked: RunningServer) -> None:
    found = _routes()
    assert {("POST", "/v1/chat/completions"), ("GET", "/metrics"), ("GET", "/ready")} <= found
    for method, path in sorted(found):
        url = locked.root_url + path
        response = httpx2.request(method, url, headers={"content-type": "application/json"})
        assert response.status_code == (200 if path in _OPEN else 404 if _is_of_the_page(path) else 401), path


def test_a_key_for_inference_reaches_no_route_of_administration(locked: RunningServer, home: Home) -> None:
    user = KeyStore(home.api_keys).create("walker")
    until(200, locked, user.secret)
    found = _routes()
    administration = sorted((m, p) for m, p in found if p.startswith("/admin"))
    assert {p for _, p in administration} >= {"/admin/claim", "/admin/models", "/admin/keys", "/admin/trust"}
    headers = {"authorization": f"Bearer {user.secret}", "content-type": "application/json"}
    for method, path in administration:
        for variant in (path, path.replace("/admin", "/%61dmin", 1)):
            response = httpx2.request(method, f"{locked.root_url}{variant}", headers=headers)
            assert response.status_code == 403, (method, variant)
            assert method == "HEAD" or response.json()["error"]["code"] == "forbidden"


def test_a_rate_counts_on_every_route(locked: RunningServer, home: Home) -> None:
    new = KeyStore(home.api_keys).create("slow", role=Role.ADMINISTRATION, rate=1)
    found = _routes()
    until(200, locked, new.secret)
    headers = {"authorization": f"Bearer {new.secret}", "content-type": "application/json"}
    for method, path in sorted(found):
        if path not in _OPEN and not _is_of_the_page(path):
            response = httpx2.request(method, f"{locked.root_url}{path}", headers=headers)
            assert response.status_code == 429, (method, path)
            assert int(response.headers["retry-after"]) > 0


_OPEN = {"/health", "/identity", "/"}


def _is_of_the_page(path: str) -> bool:
    """Tell if it is a file of the device's own page, which is served without a key; this one does not exist."""
    return path.startswith("/console/")


def _routes() -> set[tuple[str, str]]:
    """Every method and path; test_routing.py proves that no others are served."""
    gets = {("HEAD", route.template) for route in ROUTES if route.method == "GET"}
    routes = {(route.method, route.template) for route in ROUTES} | gets
    return {(method, re.sub(r"{\w+}", MODEL, path)) for method, path in routes}


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Basic c2s6",
        f"Bearer{FIRST}",
        f"Bearer {FIRST} x",
        f"Bearer {FIRST[:-1]}",
        f"Bearer {FIRST}0",
        FIRST,
        "Bearer " + "a" * 5000,
        "Bearer \xff\xfe",
        "Bearer null",
    ],
)
def test_a_malformed_authorization_is_a_401(locked: RunningServer, authorization: str) -> None:
    headers = [(b"authorization", authorization.encode("latin-1"))]
    response = httpx2.get(f"{locked.base_url}/models", headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


def test_two_authorizations_are_refused_even_when_one_is_right(locked: RunningServer) -> None:
    headers = [("authorization", f"Bearer {FIRST}"), ("authorization", "Bearer other")]
    assert httpx2.get(f"{locked.base_url}/models", headers=headers).status_code == 401


def test_a_key_in_the_query_is_not_looked_at(locked: RunningServer) -> None:
    assert httpx2.get(f"{locked.base_url}/models", params={"key": FIRST, "api_key": FIRST}).status_code == 401


def test_a_key_works_as_soon_as_it_is_made_and_no_longer_than_it_exists(locked: RunningServer, home: Home) -> None:
    store = KeyStore(home.api_keys)
    new = store.create("phone")
    until(200, locked, new.secret)
    store.revoke("phone")
    assert until(401, locked, new.secret).json()["error"]["code"] == "invalid_api_key"


def test_a_key_for_inference_does_not_administer(locked: RunningServer, home: Home) -> None:
    store = KeyStore(home.api_keys)
    user, admin = store.create("user"), store.create("admin", role=Role.ADMINISTRATION)
    until(200, locked, admin.secret)
    assert get(locked, "/admin/models", user.secret).status_code == 403
    assert get(locked, "/admin/models", admin.secret).status_code == 200
    for secret, status in ((None, 401), (user.secret, 404), (admin.secret, 404)):
        assert get(locked, "/admin/anything", secret).status_code == status


def test_a_key_that_asks_too_often_is_told_when_to_return(locked: RunningServer, home: Home) -> None:
    new = KeyStore(home.api_keys).create("greedy", rate=3)
    until(200, locked, new.secret)
    statuses = [get(locked, "/v1/models", new.secret) for _ in range(4)]
    refused = statuses[-1]
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 20
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert get(locked, "/v1/models", FIRST).status_code == 200


def test_two_keys_do_not_share_what_is_cached(locked: RunningServer, home: Home) -> None:
    new = KeyStore(home.api_keys).create("other")
    until(200, locked, new.secret)
    body = {"model": MODEL, "messages": [{"role": "user", "content": "lantern " * 80}], "max_tokens": 1}

    def cached(secret: str) -> int:
        headers = {"authorization": f"Bearer {secret}"}
        answer = httpx2.post(f"{locked.base_url}/chat/completions", json=body, headers=headers, timeout=30)
        count: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return count

    assert cached(FIRST) == 0
    assert cached(FIRST) > 60
    assert cached(new.secret) == 0


def test_a_server_that_had_a_key_does_not_open_when_the_last_one_goes(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "api")
    ring = KeyRing([], store=store, refresh_interval_s=0.0)

    async def admit(*authorizations: str) -> str:
        return (await ring.admit(authorizations)).id

    assert asyncio.run(admit()) == ""
    new = store.create("only")
    assert asyncio.run(admit(f"Bearer {new.secret}")) == new.key.id
    store.revoke("only")
    with pytest.raises(AuthenticationError):
        asyncio.run(admit())


def test_a_rate_counts_each_key_by_itself(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "api")
    one, two = store.create("one", rate=2), store.create("two", rate=2)
    ring = KeyRing([], store=store)

    async def ask(secret: str) -> None:
        await ring.admit([f"Bearer {secret}"])

    for _ in range(2):
        asyncio.run(ask(one.secret))
        asyncio.run(ask(two.secret))
    with pytest.raises(RateLimitError) as caught:
        asyncio.run(ask(one.secret))
    assert caught.value.retry_after_s == 30
