"""`lantern models` and `lantern claim` as processes: on files, through the server that runs here, and from afar."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import httpx2
import pytest

from appliance.bundle.archive import write_archive
from appliance.bundle.signing import key_id, public_pem
from appliance.home import Home
from appliance.identity.certificate import pin_of
from appliance.remote.known_devices import KnownDevices
from tests.bundle.workshop import install_untried, snapshot
from tests.conftest import RunningServer, a_config, serving
from tests.install.tiny_bundles import TinyDevice

pytestmark = pytest.mark.slow

KEY = "sk-the-administrator"


@pytest.fixture
def device(tmp_path: Path) -> TinyDevice:
    return TinyDevice(tmp_path)


@pytest.fixture
def home(device: TinyDevice) -> Home:
    return Home(device.root / "home")


def lantern(home: Home, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "appliance", *arguments],
        env={**os.environ, "COLUMNS": "200", "LANTERN_HOME": str(home.root), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def done(home: Home, *arguments: str, **environment: str) -> str:
    result = lantern(home, *arguments, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def pack(folder: Path) -> Path:
    path = folder.with_suffix(".lantern")
    with path.open("wb") as file:
        write_archive(folder, file)
    return path


def served(server: RunningServer) -> set[str]:
    answer = httpx2.get(f"{server.base_url}/models", headers={"authorization": f"Bearer {KEY}"})
    return {m["id"] for m in answer.json()["data"]}


def test_without_a_server_models_are_changed_on_the_files(home: Home, device: TinyDevice) -> None:
    assert "No model" in done(home, "models", "list")
    one, two = pack(device.make(1)), device.make(2)
    assert "tiny is installed" in done(home, "models", "install", str(one))
    first = device.store.active("tiny")
    assert "tiny is installed" in done(home, "models", "install", str(two))
    done(home, "models", "alias", "org/tiny:latest", "tiny")
    listed = done(home, "models", "list")
    assert "org/tiny:latest" in listed
    assert "encoder" in listed
    assert json.loads(done(home, "models", "list", "--json"))["models"][0]["name"] == "tiny"
    done(home, "models", "rollback", "tiny")
    assert device.store.active("tiny") == first
    done(home, "models", "alias", "org/tiny:latest", "--remove")
    done(home, "models", "remove", "tiny")
    assert device.store.names() == []


def test_a_narrow_terminal_shows_the_ids_that_clients_use_whole(home: Home, device: TinyDevice) -> None:
    name = "qwen2.5-coder-0.5b-instruct"
    done(home, "models", "install", str(pack(device.make(name=name))))
    assert name in done(home, "models", "list", COLUMNS="60")


def test_through_the_running_server_models_change_while_it_serves(home: Home, device: TinyDevice) -> None:
    with serving(a_config(server={"keys": [KEY]}), home) as server:
        assert served(server) == set()
        done(home, "models", "install", str(pack(device.make(1))))
        assert served(server) == {"tiny"}
        done(home, "models", "alias", "small", "tiny")
        assert served(server) == {"tiny", "small"}
        assert "small" in done(home, "models", "alias")
        done(home, "models", "remove", "tiny")
        assert served(server) == set()
    assert not home.running.exists()


def test_what_a_dead_server_left_behind_leads_nobody_astray(home: Home, device: TinyDevice) -> None:
    home.root.mkdir(exist_ok=True)
    home.running.write_text(json.dumps({"pid": 1, "url": "http://127.0.0.1:9", "pin": None, "key": "x"}))
    done(home, "models", "install", str(device.make(1)))
    with serving(a_config(server={"keys": [KEY]}), Home(device.root / "another")) as server:
        home.running.write_text(json.dumps({"pid": 1, "url": server.root_url, "pin": None, "key": "not-its-key"}))
        assert "tiny" in done(home, "models", "list")


def test_whose_models_run_is_said_by_command(home: Home, device: TinyDevice, tmp_path: Path) -> None:
    stranger = device.stranger()
    made, signer = device.make(key=stranger), key_id(stranger.public)
    refused = lantern(home, "models", "install", str(made))
    assert refused.returncode == 3
    assert signer in refused.stderr
    assert "lantern models trust" in refused.stderr
    public = tmp_path / "stranger.pub"
    public.write_bytes(public_pem(stranger.public))
    assert signer in done(home, "models", "trust", str(public))
    done(home, "models", "install", str(made))
    assert signer in done(home, "models", "trust")
    done(home, "models", "trust", signer, "--remove")
    assert signer not in done(home, "models", "trust")


def hostile(device: TinyDevice, name: str) -> Path:
    path, made = device.root / "hostile.tar", device.make(9)
    with tarfile.open(path, "w") as archive:
        for file in made.iterdir():
            archive.add(file, arcname=file.name)
        info = tarfile.TarInfo(name)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"boo"))
    return path


@pytest.mark.parametrize(
    ("name", "is_running"), [("../../outside", False), ("/tmp/outside", False), ("extra", False), ("../outside", True)]
)
def test_a_hostile_archive_is_one_sentence_and_changes_nothing(
    home: Home, device: TinyDevice, name: str, is_running: bool
) -> None:
    install_untried(device.store, device.make(1))
    path, before = hostile(device, name), snapshot(home.bundles)
    if is_running:
        with serving(a_config(server={"keys": [KEY]}), home):
            result = lantern(home, "models", "install", str(path))
    else:
        result = lantern(home, "models", "install", str(path))
    assert result.returncode != 0
    assert result.stderr.startswith("lantern: ")
    assert result.stderr.count("\n") == 1
    assert snapshot(home.bundles) == before
    assert not list(device.root.rglob("outside"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["install", "nowhere.lantern"],
        ["remove", "nobody"],
        ["rollback", "nobody"],
        ["alias", "x", "nobody"],
        ["alias", "x"],
        ["alias", "x", "--remove"],
        ["trust", "nowhere.pub"],
        ["trust", "../../signing", "--remove"],
    ],
)
def test_what_cannot_be_done_is_one_sentence(home: Home, arguments: list[str]) -> None:
    result = lantern(home, "models", *arguments)
    assert result.returncode != 0
    assert result.stderr.startswith("lantern: ")
    assert result.stderr.count("\n") == 1


def test_a_device_is_claimed_administered_and_known_by_its_pin(home: Home, device: TinyDevice, tmp_path: Path) -> None:
    mine = Home(tmp_path / "mine")
    config = a_config(server={"claimable": True, "http": False}, tls={"enabled": True, "port": 0})
    with serving(config, home) as server:
        said = done(
            mine,
            "claim",
            "--device",
            server.root_url,
            "--as",
            "me",
            PYTHON_KEYRING_BACKEND="keyring.backends.null.Keyring",
        )
        pin = pin_of(home.tls)
        assert pin in said
        [known] = KnownDevices.load(mine.known_devices).all
        assert known.pin == pin
        key = next(line for line in said.splitlines() if line.startswith("sk-"))
        again = lantern(mine, "claim", "--device", server.root_url)
        assert again.returncode == 7
        assert "claimed" in again.stderr
        done(mine, "models", "install", str(device.make(1)), "--device", server.root_url, LANTERN_API_KEY=key)
        assert "tiny" in done(mine, "models", "list", "--device", server.root_url, LANTERN_API_KEY=key)
        phone = done(mine, "keys", "create", "phone", "--device", server.root_url, LANTERN_API_KEY=key).split()[0]
        assert "phone" in done(mine, "keys", "list", "--device", server.root_url, LANTERN_API_KEY=key)
        refused = lantern(mine, "models", "list", "--device", server.root_url, LANTERN_API_KEY=phone)
        assert refused.returncode == 7
        assert "--admin" in refused.stderr
        done(mine, "keys", "revoke", "phone", "--device", server.root_url, LANTERN_API_KEY=key)
        assert lantern(mine, "models", "list", "--device", server.root_url).returncode == 7
