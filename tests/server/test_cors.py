"""Pages of other origins: refused, unless the operator named their origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest
from pydantic import ValidationError

from tests.abuse.bare_server import bare_server
from tests.conftest import a_config

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
    with bare_server(tmp_path, keys=[KEY], cors_origins=list(origins)) as server:
        found = httpx2.request(method, f"http://127.0.0.1:{server.port}{path}", headers=headers)
    return found.status_code, found.headers


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


def test_an_allowed_page_may_delete_what_it_stored(tmp_path: Path) -> None:
    preflight = {**PREFLIGHT, "Access-Control-Request-Method": "DELETE"}
    status, headers = answer(tmp_path, (PAGE,), "OPTIONS", "/v1/responses/resp_0", preflight)
    assert status == 204
    assert "DELETE" in headers["Access-Control-Allow-Methods"].split(", ")


@pytest.mark.parametrize(
    ("configured", "origin"),
    [
        ("app://notes", "app://notes"),
        ("tauri://localhost", "tauri://localhost"),
        ("capacitor://localhost/", "capacitor://localhost"),
        ("chrome-extension://*", "chrome-extension://abcdefgh"),
        ("vscode-webview://*", "vscode-webview://0d9f"),
    ],
)
def test_an_application_with_a_scheme_of_its_own_is_let_in_and_no_page_beside_it(
    tmp_path: Path, configured: str, origin: str
) -> None:
    (allowed,) = a_config(server={"cors_origins": [configured]}).server.cors_origins
    for sent, expected in ((origin, 200), ("https://evil.example", 403), ("app://other", 403), ("null", 403)):
        headers = {"Origin": sent, "Sec-Fetch-Site": "cross-site", "Authorization": f"Bearer {KEY}"}
        assert answer(tmp_path, (allowed,), "GET", "/v1/models", headers)[0] == expected


@pytest.mark.parametrize("origin", ["localhost", "javascript://x", "file:///x", "app://", "app://a b"])
def test_an_origin_that_no_application_has_is_refused_in_the_settings(origin: str) -> None:
    with pytest.raises(ValidationError):
        a_config(server={"cors_origins": [origin]})
