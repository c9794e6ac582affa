"""The files that 0.1.0 left on a device and at its owner's, read by this version.

`0.1.0.tar.xz` was written by the code of that release (make_0_1_0.py): a claimed device with TLS, three models of which
one has two versions, an alias, keys, a bundle half way in, prepacked models and the run file of a server that lost its
power; an update that fell back; and the workstation that claimed it.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from appliance.access.local import read_run_file
from appliance.bundle import BundleStore, TrustedKeys
from appliance.config import Config, load_config
from appliance.home import Home
from appliance.identity.certificate import pin_of
from appliance.remote.known_devices import KnownDevices
from appliance.system import update_state
from appliance.system.incoming_update import IncomingUpdate
from tests.conftest import RunningServer, serving

_ARCHIVE = Path(__file__).with_name("0.1.0.tar.xz")


class Golden:
    """The unpacked archive."""

    def __init__(self, folder: Path) -> None:
        with tarfile.open(_ARCHIVE) as archive:
            archive.extractall(folder, filter="data")
        self.folder = folder
        self.home = Home(folder / "device")
        self.facts: dict[str, Any] = json.loads((folder / "facts.json").read_text("utf-8"))

    def config(self, **engine: object) -> Config:
        """Return its settings as they are read, at ports that are free here."""
        config = load_config(self.home.root / "lantern.toml", environment={})
        changes = {"tls": config.tls.model_copy(update={"port": 0}), "engine": config.engine.model_copy(update=engine)}
        return config.model_copy(update=changes)


@pytest.fixture
def golden(tmp_path: Path) -> Golden:
    return Golden(tmp_path / "golden")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Golden, RunningServer]]:
    """The device, started again by this version."""
    golden = Golden(tmp_path_factory.mktemp("0.1.0") / "golden")
    with serving(golden.config(), golden.home) as server:
        yield golden, server


def client_of(golden: Golden, server: RunningServer, key: str) -> httpx2.Client:
    """Return a client with one of its keys."""
    secret = golden.facts["keys"][key]
    return httpx2.Client(base_url=server.root_url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)


def test_its_keys_work_and_a_revoked_one_does_not(served: tuple[Golden, RunningServer]) -> None:
    for name, models, admin in (("owner", 200, 200), ("app", 200, 403), ("gone", 401, 401)):
        with client_of(*served, name) as client:
            assert (client.get("/v1/models").status_code, client.get("/admin/keys").status_code) == (models, admin)
    with client_of(*served, "owner") as client:
        keys = {row["name"]: row["rate"] for row in client.get("/admin/keys").json()["keys"]}
    assert keys == {"owner": None, "app": 120}


def test_it_is_still_claimed(served: tuple[Golden, RunningServer]) -> None:
    golden, server = served
    answer = httpx2.post(f"{server.root_url}/admin/claim", json={"name": "stranger"})
    assert answer.status_code in {401, 409}
    assert sorted(p.stem for p in golden.home.api_keys.glob("*.json")) == ["app", "owner"]


def test_its_models_and_aliases_answer_as_they_did(served: tuple[Golden, RunningServer]) -> None:
    golden, _ = served
    with client_of(*served, "app") as client:
        assert sorted(row["id"] for row in client.get("/v1/models").json()["data"]) == golden.facts["models"]
        chat = client.post(
            "/v1/chat/completions", json={"model": "gpt-4o", "temperature": 0, **golden.facts["chat"]["request"]}
        )
        assert chat.json()["usage"]["completion_tokens"] == golden.facts["chat"]["request"]["max_tokens"]
        for model, vectors in golden.facts["embeddings"]["vectors"].items():
            body = {"model": model, "input": golden.facts["embeddings"]["input"]}
            rows = client.post("/v1/embeddings", json=body).raise_for_status().json()["data"]
            assert np.abs(np.array([row["embedding"] for row in rows]) - np.array(vectors)).max() < 0.02


def test_its_prepacked_models_say_what_new_ones_say(golden: Golden, tmp_path: Path) -> None:
    fresh = Golden(tmp_path / "fresh")
    for path in sorted(fresh.home.cache.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    answers = []
    for device in (golden, fresh):
        config = device.config(fast_prompts=False, kernels=False)  # taken by the clock, and round otherwise
        with serving(config, device.home) as server, client_of(device, server, "app") as client:
            body = {"model": "tiny-chat", "temperature": 0, "logprobs": True, **device.facts["chat"]["request"]}
            answers.append(client.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"])
    assert answers[0] == answers[1]


def test_the_earlier_version_of_a_model_serves_again(golden: Golden) -> None:
    with serving(golden.config(), golden.home) as server, client_of(golden, server, "owner") as client:
        body = {"model": "small", "input": golden.facts["embeddings"]["input"]}
        after = client.post("/v1/embeddings", json=body).raise_for_status().json()["data"][0]["embedding"]
        client.post("/admin/models/tiny-words/rollback").raise_for_status()
        before = client.post("/v1/embeddings", json=body).raise_for_status().json()["data"][0]["embedding"]
    assert np.abs(np.array(after) - np.array(before)).max() > 0.1


def test_a_half_sent_bundle_is_resumed(served: tuple[Golden, RunningServer]) -> None:
    upload = served[0].facts["upload"]
    with client_of(*served, "owner") as client:
        body = {name: upload[name] for name in ("manifest", "signature")}
        resumed = client.post("/admin/uploads", json=body).raise_for_status().json()
    assert resumed["id"] == upload["id"]
    assert {f["name"]: f["received"] for f in resumed["files"]}["model.onnx"] == upload["received"]


def test_every_version_of_a_bundle_is_verified_and_opened(golden: Golden) -> None:
    store = BundleStore(golden.home.bundles, TrustedKeys.load(golden.home.trusted_keys))
    store.sweep()
    assert store.names() == ["tiny-chat", "tiny-embed", "tiny-words"]
    assert [len(store.versions(name)) for name in store.names()] == [1, 1, 2]
    for name in store.names():
        assert store.open(name).name == name


def test_its_certificate_is_kept_and_its_owner_knows_it(golden: Golden) -> None:
    owner = KnownDevices.load(golden.folder / "workstation" / "known_devices")
    with serving(golden.config(), golden.home):
        pin = pin_of(golden.home.tls)
        ssl.create_default_context().load_cert_chain(golden.home.tls)
    known = owner.with_pin(pin)
    assert known is not None
    assert known.identity == "127.0.0.1:18443"
    assert pin in golden.facts["pin"]


def test_the_run_file_of_a_server_without_power_is_read_and_replaced(golden: Golden) -> None:
    left = read_run_file(golden.home.running)
    assert left is not None
    with serving(golden.config(), golden.home) as server:
        now = read_run_file(golden.home.running)
        assert now is not None
        assert now.key != left.key
        assert now.url == server.root_url


def test_a_piece_of_an_update_that_lies_there_is_no_obstacle(golden: Golden) -> None:
    system = golden.folder / "system"
    update = IncomingUpdate(golden.home.updates, state=system / "shown.json", version=system / "version")
    assert (update.status().state.step, update.status().received) == (update_state.Step.FELL_BACK, 100)
    whole = bytes(2000)
    incoming = update.begin(len(whole), hashlib.sha256(whole).hexdigest())
    assert (incoming.size_bytes, update.status().received) == (len(whole), 0)


def test_the_state_of_its_update_is_read_and_written_as_it_was(golden: Golden, tmp_path: Path) -> None:
    """A device that falls back runs 0.1.0 again, which takes exactly these fields."""
    kept = golden.folder / "system" / "update.json"
    state = update_state.load(kept)
    assert (state.step, state.version, state.failed) == (update_state.Step.FELL_BACK, "0.1.9", "0.1.9")
    update_state.keep(state, tmp_path / "kept.json", tmp_path / "shown.json")
    assert json.loads((tmp_path / "kept.json").read_bytes()) == json.loads(kept.read_bytes())
