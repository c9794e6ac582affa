"""Models come, go and change places while the server runs; what is refused changes nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from appliance.access.keystore import KeyStore
from appliance.bundle.signing import key_id, public_pem
from tests.bundle.workshop import install_untried, snapshot
from tests.install import harms
from tests.install.tiny_bundles import Change, TinyDevice
from tests.server.admin.clients import KEY, Administrator, administered, error_of

pytestmark = pytest.mark.slow


@pytest.fixture
def device(tmp_path: Path) -> TinyDevice:
    made = TinyDevice(tmp_path)
    install_untried(made.store, made.make(name="other"))
    return made


@pytest.fixture
def admin(device: TinyDevice) -> Iterator[Administrator]:
    with administered(device) as administrator:
        yield administrator


@pytest.fixture(scope="module")
def shared_device(tmp_path_factory: pytest.TempPathFactory) -> TinyDevice:
    """For tests that change nothing."""
    made = TinyDevice(tmp_path_factory.mktemp("shared"))
    install_untried(made.store, made.make(name="other"))
    return made


@pytest.fixture(scope="module")
def shared(shared_device: TinyDevice) -> Iterator[Administrator]:
    with administered(shared_device) as administrator:
        yield administrator


def installed(admin: Administrator) -> dict[str, dict[str, Any]]:
    return {m["name"]: m for m in admin.ask("GET", "/admin/models").json()["models"]}


def test_what_was_pushed_is_installed_and_answers(admin: Administrator, device: TinyDevice) -> None:
    made = device.make(7)
    answer = admin.push(made)
    assert answer.status_code == 200
    assert answer.json()["installed"] == "tiny"
    assert {m["name"] for m in answer.json()["models"]} == {"tiny", "other"}
    assert "tiny" in {m["id"] for m in admin.ask("GET", "/v1/models").json()["data"]}
    here = device.store.root / "tiny" / "active"
    assert {p.name: p.read_bytes() for p in here.iterdir()} == {p.name: p.read_bytes() for p in made.iterdir()}
    assert len(admin.vector()) == 8


def test_a_new_version_serves_and_a_rollback_brings_the_old_one_back(admin: Administrator, device: TinyDevice) -> None:
    one, two = device.make(1), device.make(2)
    admin.push(one)
    first = admin.vector()
    assert admin.push(two).status_code == 200
    second = admin.vector()
    assert second != first
    assert admin.ask("POST", "/admin/models/tiny/rollback").status_code == 200
    assert admin.vector() == first
    refused = admin.ask("POST", "/admin/models/tiny/rollback")
    assert refused.status_code == 422
    assert "no older version" in error_of(refused)["message"]
    assert admin.vector() == first


def test_a_model_is_unloaded_and_loaded_and_its_memory_told(admin: Administrator) -> None:
    assert installed(admin)["other"]["memory_bytes"] > 0
    answer = admin.ask("POST", "/admin/models/other/unload")
    assert answer.status_code == 200
    gone = next(m for m in answer.json()["models"] if m["name"] == "other")
    assert (gone["loaded"], gone["memory_bytes"]) == (False, 0)
    assert answer.json()["memory"]["models_bytes"] == 0
    assert admin.ask("POST", "/admin/models/other/unload").status_code == 200
    back = admin.ask("POST", "/admin/models/other/load").json()["models"][0]
    assert (back["loaded"], back["memory_bytes"] > 0) == (True, True)
    admin.ask("POST", "/admin/models/other/unload")
    assert len(admin.vector(model="other")) == 8
    for verb in ("load", "unload"):
        assert admin.ask("POST", f"/admin/models/none/{verb}").status_code == 404


def test_the_quality_and_the_report_of_a_bundle_are_told(admin: Administrator, device: TinyDevice) -> None:
    assert installed(admin)["other"]["quality"] == {
        "metrics": {},
        "text": None,
        "gates_overruled": False,
        "witness": None,
    }
    assert installed(admin)["other"]["built_for"] == "any"
    assert installed(admin)["other"]["is_built_for_here"] is True
    assert installed(admin)["other"]["has_report"] is False
    assert admin.ask("GET", "/admin/models/other/report").status_code == 404
    made = device.make(report="<h1>Figures</h1><script>alert(1)</script>")
    admin.push(made)
    assert installed(admin)["tiny"]["has_report"] is True
    report = admin.ask("GET", "/admin/models/tiny/report")
    assert report.text.startswith("<h1>Figures</h1>")
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert report.headers["content-disposition"].startswith("attachment")
    assert admin.ask("GET", "/admin/models/none/report").status_code == 404


def test_pushing_what_serves_already_takes_no_byte(admin: Administrator, device: TinyDevice) -> None:
    made = device.make(1)
    admin.push(made)
    again = admin.begin(made)
    assert (again.status_code, again.json()["state"]) == (200, "installed")
    assert admin.ask("GET", "/admin/uploads").json()["uploads"] == []


def test_pushing_the_version_that_a_rollback_left_brings_it_back_and_leaves_no_upload(
    admin: Administrator, device: TinyDevice
) -> None:
    one, two = device.make(1), device.make(2)
    for made in (one, two):
        assert admin.push(made).status_code == 200
    newer = admin.vector()
    admin.ask("POST", "/admin/models/tiny/rollback")
    assert admin.vector() != newer
    assert admin.push(two).status_code == 200
    assert admin.vector() == newer
    assert admin.ask("GET", "/admin/uploads").json()["uploads"] == []


def test_an_upload_goes_on_where_it_broke_off_and_survives_a_restart(device: TinyDevice) -> None:
    made = device.make(3, padding=b"p" * 3_000_000)
    with administered(device) as admin:
        upload = admin.begin(made).json()
        admin.put(upload["id"], "padding.bin", b"p" * 1_000_000, content_range="bytes 0-999999/3000000")
        wrong = admin.put(upload["id"], "padding.bin", b"p" * 10, content_range="bytes 5-14/3000000")
        assert wrong.status_code == 409
        assert error_of(wrong)["code"] == "offset_mismatch"
        port = int(admin.server.root_url.rsplit(":", 1)[1])
        head = f"PUT /admin/uploads/{upload['id']}/files/padding.bin HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Authorization: Bearer {KEY}\r\nContent-Type: application/octet-stream\r\n"
        head += "Content-Range: bytes 1000000-2999999/3000000\r\nContent-Length: 2000000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(head.encode() + b"p" * 1_500_000)  # and then the connection breaks
    with administered(device) as admin:
        found = {f["name"]: f for f in admin.begin(made).json()["files"]}
        assert 1_000_000 <= found["padding.bin"]["received"] <= 2_500_000
        assert admin.push(made).status_code == 200
        assert len(admin.vector()) == 8


def test_an_incomplete_upload_is_not_installed(admin: Administrator, device: TinyDevice) -> None:
    upload = admin.begin(device.make()).json()
    refused = admin.ask("POST", f"/admin/uploads/{upload['id']}/install")
    assert refused.status_code == 409
    assert "still to be sent" in error_of(refused)["message"]


def test_wrong_bytes_are_found_out_and_sent_again(admin: Administrator, device: TinyDevice) -> None:
    made = device.make(padding=b"right" * 1000)
    upload = admin.begin(made).json()
    admin.put(upload["id"], "padding.bin", b"wrong" * 1000)
    refused = admin.push(made)
    assert refused.status_code == 422
    assert "damaged" in error_of(refused)["message"]
    assert "tiny" not in installed(admin)
    assert admin.push(made).status_code == 200


def test_a_strangers_model_needs_an_administrators_word(admin: Administrator, device: TinyDevice) -> None:
    stranger = device.stranger()
    made = device.make(key=stranger)
    refused = admin.begin(made)
    assert refused.status_code == 403
    assert error_of(refused)["code"] == "untrusted_signer"
    assert key_id(stranger.public) in error_of(refused)["message"]
    trusted = admin.ask("POST", "/admin/trust", {"public_key": public_pem(stranger.public).decode()})
    assert trusted.status_code == 201
    assert trusted.json()["added"] == key_id(stranger.public)
    assert admin.push(made).status_code == 200
    assert admin.vector()
    left = admin.ask("DELETE", f"/admin/trust/{key_id(stranger.public)}").json()["trusted"]
    assert key_id(stranger.public) not in left
    assert "not trusted" in installed(admin)["tiny"]["problem"]
    assert admin.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "x"}).status_code == 404


@pytest.mark.parametrize("pem", ["", "x", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", 7])
def test_what_is_no_public_key_is_not_trusted(admin: Administrator, device: TinyDevice, pem: object) -> None:
    before = snapshot(device.trusted)
    assert admin.ask("POST", "/admin/trust", {"public_key": pem}).status_code == 400
    private = (device.root / "signing.pem").read_text()
    assert admin.ask("POST", "/admin/trust", {"public_key": private}).status_code == 400
    assert snapshot(device.trusted) == before


def test_what_the_disk_does_not_hold_is_refused_before_a_byte(admin: Administrator, device: TinyDevice) -> None:
    made, before = device.make(), snapshot(device.store.root)
    manifest = (made / "manifest.json").read_bytes()
    size = (made / "model.onnx").stat().st_size
    huge = manifest.replace(f'"size_bytes":{size}'.encode(), b'"size_bytes":1099511627776')
    assert huge != manifest
    (made / "manifest.json").write_bytes(huge)
    (made / "manifest.sig").write_bytes(device.key.sign(huge))
    refused = admin.begin(made)
    assert refused.status_code == 507
    assert error_of(refused)["code"] == "insufficient_storage"
    assert "retry-after" not in refused.headers
    assert snapshot(device.store.root) == before
    assert admin.vector(model="other")


@pytest.mark.parametrize(
    "change", [harms.foreign_domain, harms.reads_up, harms.takes_all_memory], ids=["domain", "reads up", "memory"]
)
def test_a_hostile_model_is_refused_and_the_old_one_serves(
    admin: Administrator, device: TinyDevice, change: Change
) -> None:
    admin.push(device.make(1))
    vector, before = admin.vector(), snapshot(device.store.root / "tiny")
    refused = admin.push(device.make(2, change=change))
    assert refused.status_code == 422
    assert "trial" in error_of(refused)["message"]
    assert snapshot(device.store.root / "tiny") == before
    assert admin.vector() == vector
    assert httpx2.get(f"{admin.server.root_url}/health").json()["status"] == "ok"


def test_an_install_is_finished_when_its_client_has_left(admin: Administrator, device: TinyDevice) -> None:
    upload_id = admin.send(device.make(5))
    port = int(admin.server.root_url.rsplit(":", 1)[1])
    head = f"POST /admin/uploads/{upload_id}/install HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(head.encode())
        while admin.ask("GET", f"/admin/uploads/{upload_id}").json().get("state") == "uploading":
            pass
    again = admin.ask("POST", f"/admin/uploads/{upload_id}/install")
    assert again.status_code in {200, 404}  # it was under way, or is over
    assert "tiny" in installed(admin)


def test_a_stop_does_not_wait_for_a_trial_and_keeps_what_was_sent(device: TinyDevice) -> None:
    made = device.make(change=harms.never_ends)
    with administered(device) as admin, ThreadPoolExecutor(1, "asyncio_install") as thread:
        upload_id = admin.send(made)
        install = thread.submit(admin.ask, "POST", f"/admin/uploads/{upload_id}/install")
        while admin.ask("GET", f"/admin/uploads/{upload_id}").json()["state"] != "installing":
            pass
        admin.server.call(admin.server.service.stop)
        with contextlib.suppress(httpx2.HTTPError):
            assert install.result(30).status_code == 503
    assert "tiny" not in device.store.names()
    with administered(device) as admin:
        assert admin.begin(made).json()["id"] == upload_id
        assert all(f["received"] == f["size_bytes"] for f in admin.begin(made).json()["files"])


def test_requests_are_answered_while_models_change(admin: Administrator, device: TinyDevice) -> None:
    admin.push(device.make(1))
    one = admin.vector()
    stop, seen, wrong = threading.Event(), list[list[float]](), list[str]()

    def ask() -> None:
        while not stop.is_set():
            answer = admin.ask("POST", "/v1/embeddings", {"model": "tiny", "input": "The lantern on the shelf"})
            if answer.status_code == 200:
                seen.append(answer.json()["data"][0]["embedding"])
            else:
                wrong.append(answer.text)

    with ThreadPoolExecutor(2, "asyncio_asking") as threads:
        asking = [threads.submit(ask) for _ in range(2)]
        admin.push(device.make(2))
        admin.push(device.make(3))
        admin.ask("POST", "/admin/models/tiny/rollback")
        stop.set()
        for future in asking:
            future.result(60)
    assert not wrong
    assert one in seen


def test_a_removed_model_is_gone_with_its_aliases(admin: Administrator, device: TinyDevice) -> None:
    admin.push(device.make(1))
    given = admin.ask("PUT", "/admin/aliases/org/small:latest", {"model": "tiny"})
    assert given.json()["aliases"] == {"org/small:latest": "tiny"}
    assert admin.vector(model="org/small:latest") == admin.vector()
    assert admin.ask("DELETE", "/admin/models/tiny").status_code == 200
    for model in ("tiny", "org/small:latest"):
        assert admin.ask("POST", "/v1/embeddings", {"model": model, "input": "x"}).status_code == 404
    assert admin.ask("GET", "/admin/aliases").json()["aliases"] == {}
    assert admin.ask("DELETE", "/admin/models/tiny").status_code == 404
    assert not (device.store.root / "tiny").exists()


def test_an_alias_outlives_a_restart_and_can_be_taken_back(device: TinyDevice) -> None:
    with administered(device) as admin:
        admin.ask("PUT", "/admin/aliases/gpt-4o-mini", {"model": "other"})
    with administered(device) as admin:
        assert admin.vector(model="gpt-4o-mini")
        assert admin.ask("DELETE", "/admin/aliases/gpt-4o-mini").json()["aliases"] == {}
        assert admin.ask("DELETE", "/admin/aliases/gpt-4o-mini").status_code == 404


@pytest.mark.parametrize(
    ("alias", "model", "status"),
    [("a", "nobody", 404), ("other", "other", 422), ("%20x", "other", 400), ("x" * 200, "other", 400), ("a", "", 400)],
)
def test_an_alias_that_makes_no_sense_is_refused(admin: Administrator, alias: str, model: str, status: int) -> None:
    refused = admin.ask("PUT", f"/admin/aliases/{alias}", {"model": model})
    assert refused.status_code == status, refused.text
    assert admin.ask("GET", "/admin/aliases").json()["aliases"] == {}


def test_keys_are_made_listed_and_revoked_from_afar(admin: Administrator, device: TinyDevice) -> None:
    made = admin.ask("POST", "/admin/keys", {"name": "phone", "rate": 100})
    assert made.status_code == 201
    user = Administrator(admin.server, made.json()["key"])
    assert user.vector(model="other")
    assert user.ask("GET", "/admin/models").status_code == 403
    listed = admin.ask("GET", "/admin/keys")
    assert [(k["name"], k["role"], k["rate"]) for k in listed.json()["keys"]] == [("phone", "inference", 100)]
    assert made.json()["key"] not in listed.text
    assert admin.ask("POST", "/admin/keys", {"name": "phone"}).status_code == 409
    assert admin.ask("POST", "/admin/keys", {"name": "x", "role": "king"}).status_code == 400
    assert admin.ask("DELETE", "/admin/keys/phone").status_code == 200
    assert user.ask("GET", "/v1/models").status_code == 401
    assert admin.ask("DELETE", "/admin/keys/phone").status_code == 404


def test_the_last_administrator_cannot_be_locked_out_from_afar(admin: Administrator, device: TinyDevice) -> None:
    admin.ask("POST", "/admin/keys", {"name": "boss", "role": "administration"})
    refused = admin.ask("DELETE", "/admin/keys/boss")
    assert refused.status_code == 409
    assert [k.name for k in KeyStore(device.root / "home" / "keys" / "api").all()] == ["boss"]


BAD: list[tuple[str, str, object, int]] = [
    ("POST", "/admin/uploads", {}, 400),
    ("POST", "/admin/uploads", {"manifest": "{}", "signature": "{}"}, 422),
    ("POST", "/admin/uploads", {"manifest": "{}", "signature": "null"}, 422),
    ("POST", "/admin/uploads", {"manifest": "[" * 1000, "signature": '{"key_id":"x","signature":""}'}, 403),
    ("POST", "/admin/uploads", {"manifest": "x" * (1 << 20) + "x", "signature": "{}"}, 400),
    ("GET", "/admin/uploads/..%2f..%2fkeys", None, 404),
    ("GET", "/admin/uploads/" + "0" * 64, None, 404),
    ("DELETE", "/admin/uploads/" + "0" * 64, None, 404),
    ("POST", "/admin/uploads/" + "0" * 64 + "/install", None, 404),
    ("POST", "/admin/models/nobody/rollback", None, 404),
    ("DELETE", "/admin/models/..%2f..%2fkeys", None, 404),
    ("DELETE", "/admin/models/.uploads", None, 404),
    ("DELETE", "/admin/keys/..%2fclaimed", None, 404),
    ("DELETE", "/admin/trust/..%2f..%2fsigning", None, 404),
    ("POST", "/admin/keys", {"name": "../x"}, 400),
    ("POST", "/admin/keys", {"name": "x", "rate": 0}, 400),
    ("POST", "/admin/keys", [], 400),
    ("PUT", "/admin/models", None, 405),
    ("GET", "/admin", None, 404),
    ("GET", "/admin/nothing", None, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD)
def test_odd_requests_are_answered_in_shape_and_change_nothing(
    shared: Administrator, shared_device: TinyDevice, method: str, path: str, body: object, status: int
) -> None:
    admin, device = shared, shared_device
    before = snapshot(device.root / "home" / "bundles"), snapshot(device.root / "home" / "keys")
    refused = admin.ask(method, path, body)
    assert refused.status_code == status, refused.text
    assert error_of(refused)["message"]
    assert (snapshot(device.root / "home" / "bundles"), snapshot(device.root / "home" / "keys")) == before


@pytest.mark.parametrize(
    "content_range",
    [
        "",
        "bytes",
        "bytes 0-1",
        "bytes 5-4/5",
        "bytes 0-9/9",
        "bytes 0-0/1",
        "items 0-4/5",
        "bytes -1-4/5",
        "bytes 0-4/*",
    ],
)
def test_a_content_range_that_makes_no_sense_is_a_400(
    shared: Administrator, shared_device: TinyDevice, content_range: str
) -> None:
    admin, device = shared, shared_device
    upload = admin.begin(device.make(padding=b"12345")).json()
    refused = admin.put(upload["id"], "padding.bin", b"12345", content_range=content_range)
    assert refused.status_code == 400
    assert error_of(refused)["code"] == "invalid_range"


def test_more_bytes_than_were_signed_are_not_taken(admin: Administrator, device: TinyDevice) -> None:
    upload = admin.begin(device.make(padding=b"12345")).json()
    assert admin.put(upload["id"], "padding.bin", b"123456").status_code == 409
    assert admin.put(upload["id"], "padding.bin", b"123").status_code == 400  # and is kept
    assert admin.put(upload["id"], "padding.bin", b"45", content_range="bytes 3-4/5").status_code == 200
    assert admin.put(upload["id"], "manifest.json", b"{}").status_code == 404
    wrong_type = {"content-type": "application/json"}
    path = f"/admin/uploads/{upload['id']}/files/padding.bin"
    assert admin.ask("PUT", path, content=b"{}", headers=wrong_type).status_code == 415
    assert (
        admin.ask(
            "POST", "/v1/embeddings", content=b"{}", headers={"content-type": "application/octet-stream"}
        ).status_code
        == 415
    )
