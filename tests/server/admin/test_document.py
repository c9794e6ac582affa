"""The administration in /openapi.json, held against the routes and against real answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.server.app import ROUTES
from appliance.server.http.errors import ErrorResponse
from appliance.server.http.routing import Access
from appliance.server.openapi import document
from tests.bundle.workshop import install_untried
from tests.install.tiny_bundles import TinyDevice
from tests.server.admin.clients import Administrator, administered
from tests.server.answers import read_answer

KINDS: dict[str, type[object]] = {kind.__name__: kind for r in ROUTES if (kind := r.answer) is not None}
PATHS: dict[str, dict[str, Any]] = document(ROUTES)["paths"]

UPDATE_UPLOADS = [
    ("GET", "/admin/update/uploads"),
    ("POST", "/admin/update/uploads"),
    ("GET", "/admin/update/uploads/{id}"),
    ("DELETE", "/admin/update/uploads/{id}"),
    ("PUT", "/admin/update/uploads/{id}/files/{name}"),
    ("POST", "/admin/update/uploads/{id}/install"),
]


def test_the_document_has_every_route_of_administration_and_no_other() -> None:
    administration = [r for r in ROUTES if r.access in {Access.ADMINISTRATION, Access.CLAIM}]
    served = {(r.method.lower(), r.template) for r in administration}
    told = {(method, path) for path, item in PATHS.items() if path.startswith("/admin") for method in item}
    assert served == told


def test_operations_have_ids_of_their_own_and_administration_needs_a_key() -> None:
    operations = {(p, m): o for p, item in PATHS.items() for m, o in item.items()}
    assert len({o["operationId"] for o in operations.values()}) == len(operations)
    keyless = {key for key, o in operations.items() if key[0].startswith("/admin") and {} in o["security"]}
    assert keyless == {("/admin/claim", "post")}


class Documented:
    """An administrator whose every answer has to be what the document says of that operation and status."""

    def __init__(self, admin: Administrator) -> None:
        self._admin = admin
        self.seen: set[tuple[str, str]] = set()

    def ask(self, method: str, template: str, body: object = None, **parts: str) -> Any:
        return self.check(template, self._admin.ask(method, template.format(**parts), body))

    def check(self, template: str, answer: httpx2.Response) -> Any:
        method = answer.request.method.lower()
        responses = PATHS[template][method]["responses"]
        told = responses.get(str(answer.status_code), responses["default"])
        name = told["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        read_answer({**KINDS, "ErrorResponse": ErrorResponse}[name], answer.text)
        if answer.is_success:
            assert str(answer.status_code) in responses
            self.seen.add((method, template))
        return answer.json()


@pytest.fixture
def device(tmp_path: Path) -> TinyDevice:
    made = TinyDevice(tmp_path)
    install_untried(made.store, made.make())
    return made


def test_what_administration_answers_is_what_the_document_says(device: TinyDevice) -> None:
    with administered(device) as admin:
        told = Documented(admin)
        _upload(device, admin, told)
        told.ask("GET", "/admin/models")
        told.ask("POST", "/admin/models/{name}/rollback", name="tiny")
        told.ask("PUT", "/admin/aliases/{alias}", {"model": "tiny"}, alias="small")
        told.ask("GET", "/admin/aliases")
        told.ask("DELETE", "/admin/aliases/{alias}", alias="small")
        told.ask("POST", "/admin/keys", {"name": "phone", "rate": 9})
        told.ask("GET", "/admin/keys")
        told.ask("PATCH", "/admin/keys/{name}", {"rate": 10}, name="phone")
        told.ask("DELETE", "/admin/keys/{name}", name="phone")
        for path in ("status", "requests", "doctor", "devices"):
            told.ask("GET", f"/admin/{path}")
        told.ask("POST", "/admin/qr", {"text": "a key"})
        for verb in ("unload", "load"):
            told.ask("POST", f"/admin/models/{{name}}/{verb}", name="tiny")
        pem = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        signer = told.ask("POST", "/admin/trust", {"public_key": pem.decode()})["added"]
        told.ask("GET", "/admin/trust")
        told.ask("DELETE", "/admin/trust/{key_id}", key_id=signer)
        told.ask("DELETE", "/admin/models/{name}", name="tiny")
        told.ask("GET", "/admin/safe-mode")
        for method in ("GET", "POST", "PUT", "PATCH"):  # no image here
            told.ask(method, "/admin/update", {} if method != "GET" else None)
        for method, template in UPDATE_UPLOADS:
            told.ask(method, template, {} if method == "POST" else None, id="0" * 64, name="update.raucb")
        told.ask("POST", "/admin/claim", {"name": "me"})
    elsewhere = {("post", "/admin/claim"), ("delete", "/admin/safe-mode")}  # a claimed device, and no safe mode
    elsewhere |= {("post", "/admin/restart"), ("get", "/admin/models/{name}/report")}  # the end; and no JSON
    elsewhere |= {("get", "/admin/devices")} - told.seen  # where there is a network
    updates = {(method, "/admin/update") for method in ("get", "post", "put", "patch")}
    updates |= {(method.lower(), template) for method, template in UPDATE_UPLOADS}
    assert told.seen == {(m, p) for p in PATHS if p.startswith("/admin") for m in PATHS[p]} - elsewhere - updates


def _upload(device: TinyDevice, admin: Administrator, told: Documented) -> None:
    """A second version, in all its steps."""
    made = device.make(7)
    began = told.check("/admin/uploads", admin.begin(made))
    told.ask("GET", "/admin/uploads")
    assert told.ask("DELETE", "/admin/uploads/{id}", id=began["id"]) == {"removed": began["id"]}
    assert "error" in told.ask("GET", "/admin/uploads/{id}", id=began["id"])
    upload_id = told.check("/admin/uploads", admin.begin(made))["id"]
    for entry in began["files"]:
        data = (made / entry["name"]).read_bytes()
        told.check("/admin/uploads/{id}/files/{name}", admin.put(upload_id, entry["name"], data))
    told.ask("GET", "/admin/uploads/{id}", id=upload_id)
    told.ask("POST", "/admin/uploads/{id}/install", id=upload_id)
    assert told.check("/admin/uploads", admin.begin(made))["state"] == "installed"
