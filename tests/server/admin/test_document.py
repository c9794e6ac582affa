"""What /openapi.json says of administration, held against the routes and against real answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel

from appliance.server.admin import ROUTES
from appliance.server.admin.operations import ANSWERS
from appliance.server.openapi import document
from appliance.server.response_schema import ErrorResponse
from tests.install.tiny_bundles import TinyDevice
from tests.server.admin.clients import Administrator, administered

_ANSWERS: tuple[type[BaseModel], ...] = (*ANSWERS, ErrorResponse)
MODELS = {model.__name__: model for model in _ANSWERS}
PATHS: dict[str, dict[str, Any]] = document()["paths"]


def test_the_document_has_every_route_of_administration_and_no_other() -> None:
    served = {(r.method.lower(), re.sub(r":[^}]*", "", r.path)) for r in ROUTES}
    told = {(method, path) for path, item in PATHS.items() if path.startswith("/admin") for method in item}
    assert served - {(m, p) for m, p in served if m == "head"} == told


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
        MODELS[name].model_validate_json(answer.text)
        if answer.is_success:
            assert str(answer.status_code) in responses
            self.seen.add((method, template))
        return answer.json()


@pytest.fixture
def device(tmp_path: Path) -> TinyDevice:
    made = TinyDevice(tmp_path)
    made.store.add(made.make())
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
        told.ask("DELETE", "/admin/keys/{name}", name="phone")
        pem = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        signer = told.ask("POST", "/admin/trust", {"public_key": pem.decode()})["added"]
        told.ask("GET", "/admin/trust")
        told.ask("DELETE", "/admin/trust/{key_id}", key_id=signer)
        told.ask("DELETE", "/admin/models/{name}", name="tiny")
        told.ask("GET", "/admin/safe-mode")
        for method in ("GET", "POST", "PUT", "PATCH"):  # no image here
            told.ask(method, "/admin/update", {} if method != "GET" else None)
        told.ask("POST", "/admin/claim", {"name": "me"})
    elsewhere = {("post", "/admin/claim"), ("delete", "/admin/safe-mode")}  # a claimed device, and no safe mode
    updates = {(method, "/admin/update") for method in ("get", "post", "put", "patch")}
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
