"""The push from the workstation to a device: the pushed bundle is installed, and it answers."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from openai import DefaultHttpxClient, OpenAI

from appliance.bundle import BundleStore, TrustedKeys
from appliance.home import Home
from appliance.install import Installer
from appliance.models import EngineSettings
from quantize.cli import main
from tests.conftest import a_config, serving

MODEL = "smollm2-135m-instruct"
KEY = "sk-the-administrator"


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


@pytest.fixture
def workstation(starter_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Make a home with the starter model and its keys, and with its own knowledge of devices."""
    home = Home(tmp_path / "workstation")
    shutil.copytree(starter_home.root / "keys", home.root / "keys")
    (home.root / "bundles").symlink_to(starter_home.bundles)
    monkeypatch.setenv("LANTERN_HOME", str(home.root))
    monkeypatch.setenv("LANTERN_API_KEY", KEY)
    return home


def test_what_was_pushed_is_installed_and_chats(
    workstation: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = Home(tmp_path / "device")
    config = a_config(server={"keys": [KEY], "http": False}, tls={"enabled": True, "port": 0})
    with serving(config, device) as server:
        assert main(["push", MODEL, "--device", server.root_url]) == 7
        assert "--trust" in capsys.readouterr().err
        assert main(["push", MODEL, "--device", server.root_url, "--trust"]) == 0
        assert MODEL in capsys.readouterr().err
        store = BundleStore(device.bundles, TrustedKeys.load(device.trusted_keys))
        pushed = workstation.bundles / MODEL / "active"
        assert digests(store.open(MODEL).folder) == digests(pushed)
        with OpenAI(base_url=server.base_url, api_key=KEY, http_client=DefaultHttpxClient(verify=False)) as client:
            answer = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Name the capital city of France."}], temperature=0
            )
        assert "Paris" in (answer.choices[0].message.content or "")
        assert main(["push", MODEL, "--device", server.root_url]) == 0  # nothing to send


def test_a_packed_bundle_is_one_file_that_a_device_takes(
    workstation: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.lantern"
    assert main(["pack", "all-minilm-l6-v2", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    store = BundleStore(tmp_path / "store", TrustedKeys.load(workstation.trusted_keys))
    bundle = Installer(store, EngineSettings()).install_file(path)
    assert digests(bundle.folder) == digests(workstation.bundles / "all-minilm-l6-v2" / "active")


def test_a_build_has_to_go_somewhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "smollm2-135m-instruct"]) == 2
    assert "--device" in capsys.readouterr().err
