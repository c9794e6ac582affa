"""The changes that devices and workstations make to their files, and the view that a restart has of them.

Run as `python -m tests.crashes.scenarios NAME ROOT VIEWS STEPS SEED`: works below ROOT, an empty folder, with the real
code, and writes the view after each step to VIEWS. A view is read from a copy, so that reading is not recorded.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.access.claim import Claimant, Claiming
from appliance.access.keystore import KeyStore, Role
from appliance.bundle import BundleStore, SigningKey, TrustedKeys
from appliance.bundle.folder import describe_bundle
from appliance.bundle.uploads import Uploads
from appliance.engine.runtime.prepacked import _make
from appliance.errors import InvalidRequestError
from appliance.home import Home
from appliance.host.files import sync_folder
from appliance.identity.certificate import device_certificate, pin_of
from appliance.identity.device_id import load_device_id
from appliance.remote.known_devices import KnownDevices
from appliance.server.state.sealing import Sealer
from appliance.service.last_good import LastGood
from appliance.system import update_state
from appliance.system.incoming_update import IncomingUpdate
from appliance.system.update_state import Step
from tests.bundle.workshop import Workshop, content_of, install_untried
from tests.crashes.recording import MARK
from tests.crashes.responses import STORED, response_steps, stored_responses

View = dict[str, object]
_UPDATES = (bytes(range(256)) * 40, b"another update" * 500)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps without end, of which each is there as a whole or not at all, and the view by which that is told.

    `steps` gets the folder, one for material beside it, and what to draw from; `view` opens the folder with the real
    code, and checks that everything works on it. A step of `unsettled` may be lost until a step that is none has come:
    its writer leaves the moment of writing to the kernel.
    """

    steps: Callable[[Path, Path, random.Random], Iterator[str]]
    view: Callable[[Path, Path], View]
    unsettled: frozenset[str] = frozenset()


def _store(root: Path, material: Path) -> BundleStore:
    return BundleStore(root / "bundles", TrustedKeys.load(material / "trusted"))


def _installs(root: Path, material: Path, draw: random.Random) -> Iterator[str]:
    workshop = Workshop(material)
    store = _store(root, material)
    uploads = Uploads(store)
    made = [workshop.make(bytes([i]) * 3000, name=name) for i, name in enumerate(("kept", "kept", "guest", "kept"))]
    with store.writing():
        install_untried(store, made[0])
    yield "install the first"
    while True:
        folder = draw.choice(made)
        with store.writing():
            match draw.choice(("install", "upload", "alias", "no alias", "roll back", "remove", "begin", "abandon")):
                case "install":
                    install_untried(store, folder)
                    yield "install"
                    store.prune("kept", keep=2)
                case "upload":
                    yield from _upload(store, uploads, folder, draw)
                case "alias":
                    store.aliases.set(f"alias-{draw.randrange(3)}", "kept")
                case "no alias" if found := store.aliases.all():
                    store.aliases.remove(draw.choice(sorted(found)))
                case "roll back" if _has_older(store, "kept"):
                    store.rollback("kept")
                case "remove" if "guest" in store.names():
                    store.remove("guest")
                case "begin":
                    uploads.begin(describe_bundle(folder, store.trusted))
                case "abandon" if begun := uploads.all():
                    uploads.remove(begun[0].id)
        yield "change"


def _upload(store: BundleStore, uploads: Uploads, made: Path, draw: random.Random) -> Iterator[str]:
    upload = uploads.begin(describe_bundle(made, store.trusted))
    for file in upload.files:
        data, offset = (made / file.name).read_bytes(), file.received()
        while offset < len(data):
            offset = file.append(offset, data[offset : offset + draw.randrange(500, 2000)])
            yield "send a piece"
    store.activate(store.verify(upload.folder))


def _has_older(store: BundleStore, name: str) -> bool:
    return store.versions(name).index(store.active(name) or "") > 0


def _installed(root: Path, material: Path) -> View:
    store = _store(root, material)
    found = _models_of(store)
    with store.writing():
        store.sweep()
        Uploads(store).sweep()
    assert _models_of(store) == found, "the sweep at a start changed what serves"
    for upload in Uploads(store).all():
        Uploads(store).begin(upload.signed)
    return found


def _models_of(store: BundleStore) -> View:
    models = {name: hashlib.sha256(content_of(store.open(name))).hexdigest()[:8] for name in store.names()}
    return {"models": models, "aliases": store.aliases.all()}


def _accesses(root: Path, material: Path, draw: random.Random) -> Iterator[str]:
    home, store = Home(root), KeyStore(Home(root).api_keys)
    load_device_id(home)
    yield "make the device's id"
    device_certificate(home.tls, host_name="lantern.local")
    yield "make its certificate"
    Sealer.load(home.sealing_key)
    yield "make the key that seals"
    _claiming(home).claim(Claimant("owner"))
    yield "claim it"
    trusted = TrustedKeys.load(home.trusted_keys)
    signers = [SigningKey.load_or_create(material / f"signer-{i}.pem").public for i in range(2)]
    while True:
        names = [key.name for key in store.all()]
        match draw.choice(("create", "create", "revoke", "trust", "distrust")):
            case "create" if name := next((f"key-{i}" for i in range(4) if f"key-{i}" not in names), ""):
                store.create(name, role=draw.choice(list(Role)), rate=draw.choice((None, 60)))
            case "revoke" if names:
                store.revoke(draw.choice(names))
            case "trust":
                trusted.add(draw.choice(signers))
            case "distrust" if found := sorted(trusted.all()):
                trusted.remove(draw.choice(found))
        yield "change"


def _access(root: Path, _material: Path) -> View:
    home = Home(root)
    keys = {key.name: [key.role.value, key.rate, key.sha256[:8]] for key in KeyStore(home.api_keys).all()}
    claiming = _claiming(home)
    claiming.start()
    return {
        "id": load_device_id(home) if (root / "device-id").exists() else None,
        "seals": Sealer.load(home.sealing_key) is not None if home.sealing_key.exists() else None,
        "pin": pin_of(home.tls) if home.tls.exists() else None,
        "keys": keys,
        "open": claiming.is_open(),
        "trusted": sorted(TrustedKeys.load(home.trusted_keys).all()),
    }


def _claiming(home: Home) -> Claiming:
    return Claiming(KeyStore(home.api_keys), home.claimed, is_enabled=True)


def _ownerships(root: Path, material: Path, draw: random.Random) -> Iterator[str]:
    home = Home(root)
    SigningKey.load_or_create(home.signing_key)
    yield "make a signing key"
    known = KnownDevices.load(home.known_devices)
    settings, last_good = material / "lantern.toml", LastGood(root)
    while True:
        i = draw.randrange(4)
        match draw.choice(("remember", "remember", "forget", "settings")):
            case "remember":
                known.remember(f"{i}" * 16, f"sha256//{'A' * 42}{i}=", name=f"device-{draw.randrange(9)}")
            case "forget":
                known.forget(f"{i}" * 16)
            case "settings":
                settings.write_text(f"[engine]\nslots = {draw.randrange(1, 9)}\n")
                last_good.keep(settings)
        yield "change"


def _ownership(root: Path, _material: Path) -> View:
    home, kept = Home(root), LastGood(root).path
    signer = TrustedKeys.load(home.trusted_keys)
    key = None
    with contextlib.suppress(FileNotFoundError):
        key = signer.add(SigningKey.load(home.signing_key).public)
    return {
        "signer": key,
        "known": [(device.identity, device.pin, device.name) for device in KnownDevices.load(home.known_devices).all],
        "settings": kept.read_text("utf-8") if kept else None,
    }


def _updates(root: Path, material: Path, draw: random.Random) -> Iterator[str]:
    update = _update(root, material)
    while True:
        whole = draw.choice(_UPDATES)
        digest = hashlib.sha256(whole).hexdigest()
        incoming = update.begin(len(whole), digest)
        while (offset := incoming.files[0].received()) < len(whole):
            incoming.files[0].append(offset, whole[offset : offset + draw.randrange(1000, 4000)])
            yield "send a piece"
        update.finish(digest)
        yield "hand it over"
        for step in (Step.INSTALLING, Step.RESTARTING, draw.choice((Step.DONE, Step.FELL_BACK, Step.REFUSED))):
            state = update_state.UpdateState(step, "0.1.0", f"0.2.{draw.randrange(9)}")
            update_state.keep(state, root / "system" / "update.json", material / "shown.json")
            yield "keep the state"
        update.ready.unlink()  # as lantern-update.service does
        sync_folder(update.ready.parent)
        yield "installed"


def _updated(root: Path, material: Path) -> View:
    update = _update(root, material)
    is_ready = update.ready.exists()
    if is_ready:
        assert update.ready.read_bytes() in _UPDATES, "an update was handed over that is not whole"
    state = update_state.load(root / "system" / "update.json")
    for whole in () if is_ready else _UPDATES:
        digest = hashlib.sha256(whole).hexdigest()
        _send(update, whole, digest)
        assert update.ready.read_bytes() == whole
        update.ready.unlink()
    return {"ready": is_ready, "state": state.step, "version": state.version}


def _send(update: IncomingUpdate, whole: bytes, digest: str) -> None:
    """Send an update from wherever it stands, and once more where what was there is not it."""
    for _ in range(2):
        incoming = update.begin(len(whole), digest)
        offset = incoming.files[0].received()
        incoming.files[0].append(offset, whole[offset:])
        with contextlib.suppress(InvalidRequestError):
            update.finish(digest)
            return
    raise AssertionError("the update is not taken")


def _update(root: Path, material: Path) -> IncomingUpdate:
    version = material / "version"
    version.write_text("0.1.0\n")
    return IncomingUpdate(root / "update", state=root / "system" / "update.json", version=version)


def _preparations(root: Path, material: Path, draw: random.Random) -> Iterator[str]:
    """Make prepared forms as the engine does, with a child that writes a few files in the place of onnxruntime."""
    (material / "child_of_crashes.py").write_text(_CHILD)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(material), *sys.path])
    while True:
        target = root / "prepacked" / "model" / f"{draw.randrange(1 << 20):x}"
        assert _make("child_of_crashes", [], target, "model", 60.0)
        yield "make a form"


def _prepared(root: Path, _material: Path) -> View:
    """Hold each form that a start would take against what the child wrote; the newest may be absent after a cut."""
    for model in (root / "prepacked" / "model").glob("*/model.onnx"):
        assert model.read_bytes() == b"graph", "a form was taken that is not whole"
        assert (model.parent / "weights.bin").read_bytes() == b"weights" * 300
    return {}


_CHILD = """
import pathlib, sys
folder = pathlib.Path(sys.argv[-1])
(folder / "weights.bin").write_bytes(b"weights" * 300)
(folder / "model.onnx").write_bytes(b"graph")
"""

SCENARIOS = {
    "installs": Scenario(_installs, _installed),
    "access": Scenario(_accesses, _access),
    "ownership": Scenario(_ownerships, _ownership),
    "updates": Scenario(_updates, _updated),
    "preparations": Scenario(_preparations, _prepared),
    "responses": Scenario(response_steps, stored_responses, frozenset({STORED})),
}


def view_of_copy(scenario: Scenario, root: Path, material: Path) -> View:
    """Return the view of a copy; reading may sweep and repair."""
    copy = material / "copy"
    shutil.copytree(root, copy, symlinks=True)
    try:
        view: View = json.loads(json.dumps(scenario.view(copy, material)))
        return view
    finally:
        shutil.rmtree(copy)


def main(name: str, root: Path, views: Path, num_steps: int, seed: int) -> None:
    """Go through the first steps of a scenario, telling each to the recording."""
    scenario, material = SCENARIOS[name], root.parent / "material"
    material.mkdir()
    found = [view_of_copy(scenario, root, material)]
    for step in itertools.islice(scenario.steps(root, material, random.Random(seed)), num_steps):
        found.append(view_of_copy(scenario, root, material))
        with contextlib.suppress(FileNotFoundError):
            open(MARK + step)  # noqa: SIM115, PTH123
    views.write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
