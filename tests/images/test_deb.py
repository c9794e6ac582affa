"""The Debian package: the same bytes twice, and a system that is as before once it is purged."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.deb.build import build_deb, package_version
from tests.images.trees import Chroot, missing, trixie

_PYTHON = "3.13"

pytestmark = pytest.mark.skipif(
    missing("mmdebstrap", "dpkg-deb") is not None, reason=str(missing("mmdebstrap", "dpkg-deb"))
)


@pytest.fixture(scope="module")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_deb("amd64", _PYTHON, tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroot]:
    with trixie(tmp_path_factory.mktemp("trixie")) as chroot:
        yield chroot


@pytest.fixture(scope="module")
def older(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package under an earlier version, with a file that the present one has no more."""
    folder = tmp_path_factory.mktemp("older")
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text("utf-8").replace(package_version(_PYTHON), "0.0.1"), "utf-8")
    (tree / "opt/lantern/gone").touch()
    target = folder / "older.deb"
    subprocess.run(["dpkg-deb", "-Zzstd", "-z1", "--build", tree, target], check=True, capture_output=True)
    return target


def test_two_builds_are_the_same_to_the_bit(deb: Path, tmp_path: Path) -> None:
    again = build_deb("amd64", _PYTHON, tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(deb.read_bytes()).digest()


def test_it_installs_upgrades_and_purges(deb: Path, older: Path, system: Chroot) -> None:
    before = system.files()
    (system.root / "tmp/older.deb").write_bytes(older.read_bytes())
    (system.root / "tmp/lantern.deb").write_bytes(deb.read_bytes())

    system.run("dpkg", "--install", "/tmp/older.deb")
    assert (system.root / "opt/lantern/gone").exists()
    (system.root / "var/lib/lantern").mkdir()
    (system.root / "var/lib/lantern/device-id").write_text("kept")

    system.run("dpkg", "--install", "/tmp/lantern.deb")
    assert system.run("lantern", "--version").startswith("lantern ")
    assert "lantern" in system.run("dpkg-query", "--show", "lantern")
    assert not (system.root / "opt/lantern/gone").exists()
    assert system.run("dpkg", "--verify", "lantern") == ""
    assert (system.root / "etc/systemd/system/multi-user.target.wants/lantern.service").is_symlink()
    assert (system.root / "etc/systemd/system/sockets.target.wants/lantern.socket").is_symlink()
    assert list((system.root / "opt/lantern/lib/python3.13/site-packages/appliance").glob("__pycache__/*.pyc"))

    system.run("dpkg", "--remove", "lantern")
    assert (system.root / "var/lib/lantern/device-id").read_text() == "kept"
    assert not (system.root / "opt/lantern").exists()

    system.run("dpkg", "--install", "/tmp/lantern.deb")
    system.run("dpkg", "--purge", "lantern")
    assert system.files() == before - {"opt"}  # dpkg removes an empty folder that no package owns


def test_every_dependency_is_in_it_and_can_be_imported(deb: Path, system: Chroot) -> None:
    (system.root / "tmp/lantern.deb").write_bytes(deb.read_bytes())
    system.run("dpkg", "--install", "/tmp/lantern.deb")
    modules = "aiohttp, cryptography, jinja2, llguidance, numpy, onnxruntime, pydantic, tokenizers, zeroconf"
    assert system.run("/opt/lantern/bin/python", "-c", f"import appliance.__main__, {modules}; print('all')") == "all"
    system.run("dpkg", "--purge", "lantern")


def test_a_change_by_the_administrator_survives_an_upgrade(deb: Path, older: Path, system: Chroot) -> None:
    (system.root / "tmp/older.deb").write_bytes(older.read_bytes())
    (system.root / "tmp/lantern.deb").write_bytes(deb.read_bytes())
    system.run("dpkg", "--install", "/tmp/older.deb")
    system.run("systemctl", "disable", "lantern.service")
    system.run("dpkg", "--install", "/tmp/lantern.deb")
    assert not (system.root / "etc/systemd/system/multi-user.target.wants/lantern.service").is_symlink()
    system.run("dpkg", "--purge", "lantern")
