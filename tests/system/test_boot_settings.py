"""Settings that a user writes on the boot partition: valid ones apply, and none prevents a start."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from appliance.config import load_config
from appliance.system.apply_settings import fitting, main, toml_of
from appliance.system.boot_settings import read_settings
from images.workplace import ROOT

_SHIPPED = ROOT / "images/raspberry_pi/lantern.toml"
_IMAGER_USER_DATA = """#cloud-config
hostname: kitchen
timezone: Europe/Berlin
users:
- name: pi
  passwd: "$5$notused"
  ssh_authorized_keys:
  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample me@desk
runcmd:
- [touch, /tmp/should-never-exist]
"""
_IMAGER_NETWORK = """network:
  version: 2
  wifis:
    wlan0:
      dhcp4: true
      regulatory-domain: "DE"
      access-points:
        "Café 5 GHz":
          password: "correct horse"
        "Guests":
          auth:
            password: "battery staple"
      optional: true
"""


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    folder = tmp_path / "boot"
    folder.mkdir()
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A device's file system, as far as settings reach."""
    folder = tmp_path / "root"
    (folder / "var/lib/lantern").mkdir(parents=True)
    (folder / "usr/share/zoneinfo/Europe").mkdir(parents=True)
    (folder / "usr/share/zoneinfo/Europe/Berlin").touch()
    (folder / "etc").mkdir()
    return folder


def applied(root: Path) -> str:
    return (root / "var/lib/lantern/lantern.toml").read_text("utf-8")


def problems(root: Path) -> str:
    return (root / "run/lantern/problems").read_text("utf-8")


def test_a_card_without_any_settings_waits_to_be_claimed(boot: Path, root: Path) -> None:
    assert main(boot, root) == 0
    config = load_config(root / "var/lib/lantern/lantern.toml", environment={})
    assert config.server.claimable
    assert config.tls.enabled
    assert config.discovery.announce
    assert problems(root) == ""


def test_the_shipped_file_says_nothing_until_it_is_edited(boot: Path, root: Path) -> None:
    main(boot, root)
    before = applied(root)
    (boot / "lantern.toml").write_bytes(_SHIPPED.read_bytes())
    main(boot, root)
    assert applied(root) == before
    assert problems(root) == ""


def test_every_example_in_the_shipped_file_is_understood(boot: Path, root: Path) -> None:
    text = _SHIPPED.read_text("utf-8").replace("AAAA... you", "AAAAC3Nz you")
    lines = [line.removeprefix("# ") if " = " in line else line for line in text.splitlines()]
    (boot / "lantern.toml").write_text("\n".join(lines), "utf-8")
    main(boot, root)
    assert problems(root) == ""
    config = load_config(root / "var/lib/lantern/lantern.toml", environment={})
    assert config.discovery.name == "kitchen"
    assert config.server.keys == ["a-key-of-your-own"]
    assert config.models.aliases["gpt-4o-mini"] == "smollm2-135m-instruct"
    assert (root / "etc/localtime").readlink() == Path("/usr/share/zoneinfo/Europe/Berlin")
    assert (root / "run/lantern/update-url").read_text().startswith("https://")
    assert "ssh-ed25519" in (root / "etc/ssh/authorized_keys/root").read_text()


def test_what_the_imager_writes_is_understood_and_no_command_of_it_is_run(boot: Path, root: Path) -> None:
    (boot / "user-data").write_text(_IMAGER_USER_DATA, "utf-8")
    (boot / "network-config").write_text(_IMAGER_NETWORK, "utf-8")
    main(boot, root)
    assert problems(root) == ""
    settings = read_settings(boot)
    assert settings.name == "kitchen"
    assert settings.networks == {"Café 5 GHz": "correct horse", "Guests": "battery staple"}
    wifi = (root / "etc/wpa_supplicant/wpa_supplicant-wlan0.conf").read_text()
    assert "country=DE" in wifi
    assert f"ssid={'Café 5 GHz'.encode().hex()}" in wifi
    assert 'psk="correct horse"' in wifi
    assert tomllib.loads(applied(root))["discovery"]["name"] == "kitchen"
    assert not Path("/tmp/should-never-exist").exists()


def test_the_wifi_file_is_for_root_alone(boot: Path, root: Path) -> None:
    (boot / "network-config").write_text(_IMAGER_NETWORK, "utf-8")
    main(boot, root)
    assert (root / "etc/wpa_supplicant/wpa_supplicant-wlan0.conf").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("lantern.toml", b"[device\nname=", "not valid TOML"),
        ("lantern.toml", b"\xff\xfe[\x00d\x00", "not UTF-8"),
        ("lantern.toml", b'[wifi]\nnetwork = "home"\npassword = "short"\n', "8 to 63 characters"),
        ("lantern.toml", b'[device]\ntime_zone = "../../etc/passwd"\n', "time_zone cannot be"),
        ("lantern.toml", b'[device]\ntime_zone = "Mars/Olympus"\n', "no time zone Mars/Olympus"),
        ("lantern.toml", b'[device]\nhostnam = "x"\n', "no setting device.hostnam"),
        ("lantern.toml", b'[server]\nport = "many"\n', "server.port"),
        ("lantern.toml", b'[device]\nssh_keys = ["command=\\"rm\\" ssh-rsa A"]\n', "no public key"),
        ("lantern.toml", b"x = 1\n", "outside a section"),
        ("lantern.toml", b"#" * (300 << 10), "too large"),
        ("user-data", b"#cloud-config\nhostname: [a\n", "not valid YAML"),
        ("user-data", b"hostname: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("network-config", b"wifis: {wlan0: {access-points: {home: {password: 'short'}}}}", "8 to 63 characters"),
    ],
)
def test_a_mistake_is_named_and_the_device_starts_with_the_rest(
    boot: Path, root: Path, name: str, data: bytes, said: str
) -> None:
    (boot / name).write_bytes(data)
    assert main(boot, root) == 0
    assert said in problems(root)
    assert load_config(root / "var/lib/lantern/lantern.toml", environment={}).server.claimable


@pytest.mark.parametrize("data", [b"users: 3\nhostname: 7\n", b"- a\n- b\n", b"", b"users: [null, 4, {}]", b"wifis: 3"])
def test_odd_files_are_no_reason_not_to_start(boot: Path, root: Path, data: bytes) -> None:
    for name in ("user-data", "network-config"):
        (boot / name).write_bytes(data)
    assert main(boot, root) == 0


def test_settings_that_worked_stay_when_new_ones_are_wrong(boot: Path, root: Path) -> None:
    (boot / "lantern.toml").write_text("[engine]\nslots = 2\n", "utf-8")
    main(boot, root)
    (boot / "lantern.toml").write_text("[engine]\nslots = 200\n", "utf-8")
    main(boot, root)
    assert load_config(root / "var/lib/lantern/lantern.toml", environment={}).engine.slots == 2


def test_a_file_saved_on_windows_counts(boot: Path, root: Path) -> None:
    (boot / "lantern.toml").write_bytes(b'\xef\xbb\xbf[device]\r\nname = "den"\r\n')
    main(boot, root)
    assert tomllib.loads(applied(root))["discovery"]["name"] == "den"
    assert problems(root) == ""


def test_the_ticket_to_claim_again_keeps_its_time(boot: Path, root: Path) -> None:
    """The time tells the file from one that was put there later."""
    (boot / "claim-again").touch()
    os.utime(boot / "claim-again", (1_700_000_000, 1_700_000_000))
    main(boot, root)
    assert (root / "run/lantern/claim-again").stat().st_mtime == 1_700_000_000


def test_toml_is_written_as_it_is_read() -> None:
    sections = {"models": {"aliases": {'a"b\\': "é", "c.d": "e"}, "preload": ["*", "x y"], "memory_mib": 3, "on": True}}
    assert tomllib.loads(toml_of(sections)) == sections


def test_boards_with_little_memory_answer_fewer_at_once() -> None:
    slots = [fitting(mib).get("engine", {}).get("slots") for mib in (440, 920, 1900, 8000)]
    assert slots == [1, 2, None, None]
