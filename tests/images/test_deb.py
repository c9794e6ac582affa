"""The Debian package: the same bytes twice, and a system that is as before once it is purged."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.deb.build import build_deb, package_version
from images.raspberry_pi.image import PYTHON
from tests.images.test_kernels import FAMILIES
from tests.images.trees import Chroot, missing, trixie

_SITE = f"opt/lantern/lib/python{PYTHON}/site-packages"

pytestmark = pytest.mark.skipif(
    missing("mmdebstrap", "dpkg-deb") is not None, reason=str(missing("mmdebstrap", "dpkg-deb"))
)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroot]:
    chroot = trixie(tmp_path_factory.mktemp("trixie"))
    yield chroot
    shutil.rmtree(chroot.root)


@pytest.fixture(scope="module")
def older(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An earlier version with a file that the present one has no more; without wheels, which take long to compile."""
    folder = tmp_path_factory.mktemp("older")
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text("utf-8").replace(package_version(PYTHON), "0.0.1"), "utf-8")
    for path in (tree / _SITE).iterdir():
        if path.name != "appliance":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (tree / "opt/lantern/gone").touch()
    target = folder / "older.deb"
    subprocess.run(["dpkg-deb", "-Zzstd", "-z1", "--build", tree, target], check=True, capture_output=True)
    shutil.rmtree(tree)
    return target


def test_two_builds_are_the_same_to_the_bit(deb: Path, tmp_path: Path) -> None:
    again = build_deb("amd64", PYTHON, tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(deb.read_bytes()).digest()


def test_it_installs_upgrades_keeps_what_the_administrator_changed_and_purges(
    deb: Path, older: Path, system: Chroot
) -> None:
    """The life of one system, in the order in which it happens: each installation compiles for half a minute."""
    before = system.files()
    enabled = system.root / "etc/systemd/system"
    service, socket = (
        enabled / "multi-user.target.wants/lantern.service",
        enabled / "sockets.target.wants/lantern.socket",
    )
    for name, source in (("older", older), ("lantern", deb)):
        shutil.copy(source, system.root / f"tmp/{name}.deb")

    system.run("dpkg", "--install", "/tmp/older.deb")
    assert (system.root / "opt/lantern/gone").exists()
    assert service.is_symlink()
    assert socket.is_symlink()
    (system.root / "var/lib/lantern").mkdir()
    (system.root / "var/lib/lantern/device-id").write_text("kept")
    system.run("systemctl", "disable", "lantern.service")

    system.run("dpkg", "--install", "/tmp/lantern.deb")
    assert system.run("lantern", "--version").startswith("lantern ")
    assert package_version(PYTHON) in system.run("dpkg-query", "--show", "lantern")
    assert not (system.root / "opt/lantern/gone").exists()
    assert system.run("dpkg", "--verify", "lantern") == ""
    if shutil.which("x86_64-linux-gnu-g++") is not None:
        assert system.run("/opt/lantern/bin/python", "-m", "appliance.engine.kernels") in FAMILIES
        library = system.root / _SITE / "appliance/engine/kernels/build/liblantern_kernels.so"
        content = library.read_bytes()
        library.write_bytes(content[:-1])
        assert library.name in system.run("dpkg", "--verify", "lantern")
        library.write_bytes(content)
    assert not service.is_symlink(), "an upgrade enables nothing that somebody disabled"
    assert list((system.root / _SITE / "appliance").glob("__pycache__/*.pyc"))
    modules = "aiohttp, cryptography, jinja2, llguidance, numpy, onnxruntime, pydantic, tokenizers, zeroconf"
    assert system.run("/opt/lantern/bin/python", "-c", f"import appliance.__main__, {modules}; print('all')") == "all"

    system.run("dpkg", "--remove", "lantern")
    assert (system.root / "var/lib/lantern/device-id").read_text() == "kept"
    assert not (system.root / "opt/lantern").exists()

    system.run("dpkg", "--install", "/tmp/older.deb")
    system.run("dpkg", "--purge", "lantern")
    assert system.files() == before - {"opt"}  # dpkg removes an empty folder that no package owns
