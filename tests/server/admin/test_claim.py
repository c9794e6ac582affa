"""A new device is claimed once, by a client that proves presence, and serves nobody before."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from appliance.access.claim_code import read_code
from appliance.access.keystore import KeyStore
from appliance.home import Home
from appliance.server.admin.claim import ClaimedKey
from tests.bundle.workshop import install_untried
from tests.conftest import RunningServer, a_config, serving
from tests.install.tiny_bundles import TinyDevice
from tests.server.admin.clients import Administrator, error_of, need_own_address
from tests.server.answers import read_answer

pytestmark = pytest.mark.slow

CLAIMABLE: dict[str, object] = {"claimable": True}


@pytest.fixture
def device(tmp_path: Path) -> TinyDevice:
    made = TinyDevice(tmp_path)
    install_untried(made.store, made.make())
    return made


@pytest.fixture
def home(device: TinyDevice) -> Home:
    return Home(device.root / "home")


def claim(server: RunningServer, name: object = "owner", **options: object) -> httpx2.Response:
    return httpx2.post(f"{server.root_url}/admin/claim", json={"name": name}, **options)  # type: ignore[arg-type]


def test_an_unclaimed_device_says_so_and_serves_nobody(home: Home) -> None:
    with serving(a_config(server=CLAIMABLE), home) as server:
        health = httpx2.get(f"{server.root_url}/health")
        assert health.status_code == 200
        assert health.json()["status"] == "unclaimed"
        stranger = Administrator(server, key=None)
        for path in ("/v1/models", "/metrics", "/ready", "/admin/models", "/admin/keys"):
            refused = stranger.ask("GET", path)
            assert refused.status_code == 401
            assert error_of(refused)["code"] == "unclaimed"
            assert "lantern claim" in error_of(refused)["message"]
        refused = stranger.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "x"})
        assert refused.status_code == 401


def test_a_claim_gives_a_key_that_administers_at_once_and_no_second_one(home: Home) -> None:
    with serving(a_config(server=CLAIMABLE), home) as server:
        claimed = claim(server)
        assert claimed.status_code == 201
        owner = Administrator(server, read_answer(ClaimedKey, claimed.text)["key"])
        assert [k["name"] for k in owner.ask("GET", "/admin/keys").json()["keys"]] == ["owner"]
        assert owner.vector()
        assert httpx2.get(f"{server.root_url}/health").json()["status"] == "ok"
        second = claim(server, "thief")
        assert second.status_code == 409
        assert error_of(second)["code"] == "already_claimed"
        assert len(KeyStore(home.api_keys).all()) == 1


def test_of_many_who_claim_at_once_one_succeeds(home: Home) -> None:
    with serving(a_config(server=CLAIMABLE), home) as server, ThreadPoolExecutor(50, "asyncio_claims") as threads:
        start = threading.Barrier(50)

        def one(i: int) -> int:
            start.wait(30)
            return claim(server, f"claimer-{i}").status_code

        statuses = sorted(threads.map(one, range(50)))
    assert statuses == [201] + [409] * 49
    assert len(KeyStore(home.api_keys).all()) == 1


def test_a_claim_outlives_restarts_and_even_its_keys(home: Home) -> None:
    with serving(a_config(server=CLAIMABLE), home) as server:
        assert claim(server).status_code == 201
    KeyStore(home.api_keys).revoke("owner")
    with serving(a_config(server=CLAIMABLE), home) as server:
        assert claim(server, "thief").status_code == 409


def test_keys_made_by_command_count_as_a_claim_even_after_they_are_gone(home: Home) -> None:
    KeyStore(home.api_keys).create("by-command")
    with serving(a_config(server=CLAIMABLE), home) as server:
        assert claim(server, "thief").status_code == 409
    KeyStore(home.api_keys).revoke("by-command")
    with serving(a_config(server=CLAIMABLE), home) as server:
        assert claim(server, "thief").status_code == 409


def test_a_key_in_the_settings_makes_a_claim_unnecessary(home: Home) -> None:
    with serving(a_config(server={**CLAIMABLE, "keys": ["sk-configured"]}), home) as server:
        assert claim(server).status_code == 409
        assert httpx2.get(f"{server.root_url}/health").json()["status"] == "ok"


def test_without_being_told_so_a_server_cannot_be_claimed(home: Home) -> None:
    with serving(a_config(), home) as server:
        assert claim(server).status_code == 401
    with serving(a_config(server={"keys": ["sk-configured"]}), home) as server:
        assert claim(server).status_code == 401
    assert KeyStore(home.api_keys).all() == []


def test_a_file_put_on_the_device_opens_it_once(home: Home, tmp_path: Path) -> None:
    ticket = tmp_path / "lantern-claim"
    config = a_config(server={**CLAIMABLE, "claim_file": str(ticket)})
    with serving(config, home) as server:
        assert claim(server, "first").status_code == 201
        assert claim(server, "second").status_code == 409
        ticket.touch()
        assert claim(server, "second").status_code == 201
        assert claim(server, "third").status_code == 409
    with serving(config, home) as server:
        assert claim(server, "third").status_code == 409
        os.utime(ticket, (1, 1))  # put there again
        assert claim(server, "third").status_code == 201
    assert {k.name for k in KeyStore(home.api_keys).all()} == {"first", "second", "third"}


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 65, "-x", 7, None, ["x"], {}])
def test_a_name_that_is_none_claims_nothing(home: Home, name: object) -> None:
    with serving(a_config(server=CLAIMABLE), home) as server:
        refused = claim(server, name)
        assert refused.status_code == 400
        assert error_of(refused)["message"]
        assert claim(server).status_code == 201


def test_no_page_of_another_site_claims_the_device(home: Home) -> None:
    with serving(a_config(server=CLAIMABLE), home) as server:
        url = f"{server.root_url}/admin/claim"
        body = '{"name": "thief"}'
        json_type = {"content-type": "application/json"}
        assert httpx2.post(url, content=body, headers={"content-type": "text/plain"}).status_code == 415
        assert httpx2.post(url, content=body, headers={**json_type, "sec-fetch-site": "cross-site"}).status_code == 403
        assert httpx2.post(url, content=body, headers={**json_type, "host": "evil.example"}).status_code == 421
        assert httpx2.get(url).status_code == 405
        assert claim(server).status_code == 201


def test_the_new_key_is_nowhere_in_the_log(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), serving(a_config(server=CLAIMABLE), home) as server:
        key = claim(server).json()["key"]
        Administrator(server, key).ask("GET", "/admin/keys")
    said = "\n".join(f"{r.getMessage()} {vars(r)}" for r in caplog.records if r.name.startswith(("app", "aio")))
    assert "claimed by owner" in said
    assert key not in said
    assert key not in "".join(p.read_text("utf-8") for p in home.api_keys.iterdir())


def test_from_another_machine_a_claim_and_administration_need_https(home: Home) -> None:
    address = need_own_address()
    config = a_config(server={**CLAIMABLE, "host": "0.0.0.0"}, tls={"enabled": True, "port": 0})
    with serving(config, home) as server:
        plain = f"http://{address}:{server.service.port}"
        secure = f"https://{address}:{server.service.https_port}"
        refused = httpx2.post(f"{plain}/admin/claim", json={"name": "owner"})
        assert refused.status_code == 403
        assert error_of(refused)["code"] == "https_required"
        with httpx2.Client(verify=False) as client:
            body = {"name": "owner", "code": read_code(home.claim_code)}
            key = client.post(f"{secure}/admin/claim", json=body).json()["key"]
            headers = {"authorization": f"Bearer {key}"}
            assert client.get(f"{secure}/admin/models", headers=headers).status_code == 200
        refused = httpx2.get(f"{plain}/admin/models", headers=headers)
        assert error_of(refused)["code"] == "https_required"
        assert httpx2.get(f"{plain}/v1/models", headers=headers).status_code == 200


def test_plain_http_is_enough_where_the_operator_says_so(home: Home) -> None:
    address = need_own_address()
    config = a_config(server={**CLAIMABLE, "host": "0.0.0.0", "plain_administration": True, "claim": "first"})
    with serving(config, home) as server:
        plain = f"http://{address}:{server.service.port}"
        assert httpx2.post(f"{plain}/admin/claim", json={"name": "owner"}).status_code == 201


def test_another_machine_needs_the_code_that_the_device_shows(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    address = need_own_address()
    config = a_config(server={**CLAIMABLE, "host": "0.0.0.0", "plain_administration": True})
    with caplog.at_level(logging.DEBUG), serving(config, home) as server:
        url = f"http://{address}:{server.service.port}/admin/claim"
        code = read_code(home.claim_code) or ""
        without = httpx2.post(url, json={"name": "owner"})  # as 0.1.0's command sends it
        assert (without.status_code, error_of(without)["code"]) == (403, "claim_code_required")
        assert "lantern 0.2.0 or newer" in error_of(without)["message"]
        for _ in range(5):
            wrong = httpx2.post(url, json={"name": "thief", "code": "0000-0000"})
            assert (wrong.status_code, error_of(wrong)["code"]) == (403, "wrong_claim_code")
        late = httpx2.post(url, json={"name": "thief", "code": code})
        assert (late.status_code, error_of(late)["code"]) == (429, "too_many_claim_codes")
        assert 0 < int(late.headers["retry-after"]) <= 60
        assert httpx2.get(f"{server.root_url}/health").json()["status"] == "unclaimed"
    with serving(config, home) as server:
        url = f"http://{address}:{server.service.port}/admin/claim"
        assert httpx2.post(url, json={"name": "owner", "code": code.lower()}).status_code == 201
        again = httpx2.post(url, json={"name": "thief", "code": code})
        assert again.status_code == 409
        assert f"claimed by owner from {address} on 2" in error_of(again)["message"]
    assert not home.claim_code.exists()
    assert code not in "\n".join(f"{r.getMessage()} {vars(r)}" for r in caplog.records if r.name.startswith("app"))


def test_the_client_of_a_proxy_on_this_machine_is_another_machine(home: Home) -> None:
    with serving(a_config(server=CLAIMABLE), home) as server:
        for header in ("X-Forwarded-For", "Forwarded", "x-real-ip", "Via"):
            refused = claim(server, headers={header: "192.0.2.9"})
            assert (refused.status_code, error_of(refused)["code"]) == (403, "claim_code_required")
        assert claim(server).status_code == 201


@pytest.mark.parametrize("code", [7, ["x"], {}, "x" * 129])
def test_a_code_that_is_none_is_a_400(home: Home, code: object) -> None:
    with serving(a_config(server=CLAIMABLE), home) as server:
        url = f"{server.root_url}/admin/claim"
        assert httpx2.post(url, json={"name": "owner", "code": code}).status_code == 400


def test_a_device_without_any_model_starts_and_can_be_claimed(tmp_path: Path) -> None:
    with serving(a_config(server=CLAIMABLE), Home(tmp_path / "empty")) as server:
        key = claim(server).json()["key"]
        assert Administrator(server, key).ask("GET", "/admin/models").json()["models"] == []


def test_an_open_server_is_administered_with_a_key_only(home: Home) -> None:
    with serving(a_config(), home) as server:
        anybody = Administrator(server, key=None)
        assert anybody.vector()
        for method, path in (("GET", "/admin/models"), ("DELETE", "/admin/models/tiny"), ("POST", "/admin/trust")):
            assert anybody.ask(method, path).status_code == 401
        assert Administrator(server, "any").ask("GET", "/admin/models").status_code == 401
