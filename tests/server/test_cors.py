"""Pages of other origins: refused, unless the operator named their origin."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from appliance.bundle import BundleStore, TrustedKeys
from appliance.models import EngineSettings, ModelPool
from appliance.server.app import make_app
from appliance.server.context import ServerContext
from appliance.server.cors import Cors
from appliance.server.guard import Guard
from appliance.server.keys import KeyRing

PAGE = "https://chat.example"
KEY = "sk-correct-horse"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    "Access-Control-Request-Private-Network": "true",
    "Sec-Fetch-Site": "cross-site",
}


def answer(
    tmp_path: Path, origins: tuple[str, ...], method: str, path: str, headers: dict[str, str]
) -> tuple[int, Mapping[str, str]]:
    """Status and headers of one answer of a server without models."""

    async def ask(context: ServerContext) -> tuple[int, Mapping[str, str]]:
        async with (
            TestServer(make_app(context)) as server,
            ClientSession() as session,
            session.request(method, server.make_url(path), headers=headers) as response,
        ):
            return response.status, response.headers.copy()

    store = BundleStore(tmp_path, TrustedKeys.load(tmp_path))
    settings = EngineSettings()
    pool = ModelPool(store, cache=tmp_path, settings=settings, aliases={}, on_failure=lambda _: None)
    with ThreadPoolExecutor(1, thread_name_prefix="text") as threads:
        context = ServerContext(
            pool=pool,
            keys=KeyRing([KEY]),
            guard=Guard(host_names=()),
            text_threads=threads,
            started_s=0,
            cors=Cors(origins),
        )
        return asyncio.run(ask(context))


@pytest.mark.parametrize("origins", [(PAGE,), ("https://other.example", f"{PAGE}/"), ("*",)])
def test_a_preflight_of_an_allowed_page_needs_no_key_and_gets_what_it_asks(
    tmp_path: Path, origins: tuple[str, ...]
) -> None:
    status, headers = answer(tmp_path, origins, "OPTIONS", "/v1/chat/completions", PREFLIGHT)
    assert status == 204
    assert headers["Access-Control-Allow-Origin"] == PAGE
    assert headers["Access-Control-Allow-Headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    assert headers["Access-Control-Allow-Private-Network"] == "true"
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert headers["Vary"] == "Origin"


def test_an_allowed_page_may_read_answers_and_refusals(tmp_path: Path) -> None:
    page = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
    for extra, expected in (({"Authorization": f"Bearer {KEY}"}, 200), ({}, 401)):
        status, headers = answer(tmp_path, (PAGE,), "GET", "/v1/models", {**page, **extra})
        assert status == expected
        assert headers["Access-Control-Allow-Origin"] == PAGE
        assert "x-request-id" in headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origins", [(), ("https://other.example",), (f"{PAGE}.evil.example",)])
def test_every_other_page_is_refused_and_reads_nothing(tmp_path: Path, origins: tuple[str, ...]) -> None:
    page = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "Authorization": f"Bearer {KEY}"}
    for method, path, asked in (("OPTIONS", "/v1/models", PREFLIGHT), ("GET", "/v1/models", page)):
        status, headers = answer(tmp_path, origins, method, path, asked)
        assert status == 403
        assert not [name for name in headers if name.lower().startswith("access-control")]
