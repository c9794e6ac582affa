"""A Jetson's root file system, as far as a machine without a Jetson can tell: on a stand-in."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from appliance.home import Home
from images.deb.build import build_deb, package_version
from images.workplace import ROOT
from tests.images.trees import missing, trixie

_FOLDER = ROOT / "images/jetson"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """Device nodes as a board has them, of a harmless kind."""
    folder = tmp_path / "dev"
    (folder / "dri").mkdir(parents=True)
    for name in ("nvmap", "nvhost-gpu", "dri/renderD128", "tty"):
        os.mknod(folder / name, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    return folder


def opened(tmp_path: Path, devices: Path, *, computes: bool) -> str | None:
    """The drop-in that the board writes, if it writes one."""
    python, drop_in = tmp_path / "python", tmp_path / "gpu.conf"
    python.write_text(f"#!/bin/sh\nexit {0 if computes else 1}\n")
    python.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin",
        "LANTERN_DEVICES": str(devices),
        "LANTERN_DROP_IN": str(drop_in),
        "LANTERN_PYTHON": str(python),
    }
    subprocess.run(["sh", _FOLDER / "gpu-access.sh"], env=environment, check=True, capture_output=True)
    return drop_in.read_text() if drop_in.exists() else None


@needs_root
def test_a_gpu_that_computes_is_opened_to_the_service(tmp_path: Path, devices: Path) -> None:
    text = opened(tmp_path, devices, computes=True)
    assert text is not None
    for name in ("nvmap", "nvhost-gpu", "dri/renderD128"):
        assert f"DeviceAllow={devices / name} rw" in text
    assert "/tty " not in text


@needs_root
def test_a_gpu_on_which_nothing_comes_out_right_stays_closed(tmp_path: Path, devices: Path) -> None:
    assert opened(tmp_path, devices, computes=False) is None


def test_a_board_without_a_gpu_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    assert opened(tmp_path, tmp_path / "dev", computes=True) is None


@pytest.mark.skipif(missing("dpkg-deb") is not None, reason=str(missing("dpkg-deb")))
def test_a_root_file_system_without_the_packages_python_is_refused(tmp_path: Path) -> None:
    """A stand-in of trixie has no Python 3.12, which JetPack 7 has."""
    control = tmp_path / "package/DEBIAN/control"
    control.parent.mkdir(parents=True)
    fields = {"Package": "lantern", "Version": package_version("3.12"), "Architecture": "arm64", "Maintainer": "a"}
    control.write_text("".join(f"{k}: {v}\n" for k, v in {**fields, "Description": "a stand-in"}.items()), "utf-8")
    deb = tmp_path / "lantern.deb"
    subprocess.run(["dpkg-deb", "--build", tmp_path / "package", deb], check=True, capture_output=True)
    root = tmp_path / "rootfs"
    for name in ("etc", "usr/bin"):
        (root / name).mkdir(parents=True)
    (root / "usr/bin/dpkg").touch(mode=0o755)
    command = [_FOLDER / "provision-l4t.sh", root, deb]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "needs Python 3.12" in result.stderr


@pytest.mark.images
@pytest.mark.skipif(
    not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists() or missing("mmdebstrap") is not None,
    reason="arm64 programs do not run here: make image-deps",
)
@pytest.mark.skipif(os.environ.get("LANTERN_IMAGE_TESTS") != "1", reason="minutes of emulation: make image-test")
def test_a_stand_in_is_provisioned_and_the_appliance_in_it_starts(tmp_path: Path, starter_home: Home) -> None:
    deb = build_deb("arm64", "3.13", tmp_path)
    root = tmp_path / "rootfs"
    root.mkdir()
    system = trixie(root, "arm64")
    for _ in range(2):
        subprocess.run([_FOLDER / "provision-l4t.sh", root, deb, starter_home.root], check=True)
    assert system.run("uname", "-m") == "aarch64"
    assert system.run("lantern", "--version").startswith("lantern ")
    assert "valid" in system.run("lantern", "config", "--check", "/var/lib/lantern/lantern.toml")
    assert (root / "var/lib/lantern/bundles/smollm2-135m-instruct/active/manifest.json").exists()
    assert (root / "etc/systemd/system/multi-user.target.wants/lantern-gpu.service").is_symlink()
    # Without /sys, onnxruntime complains on stderr that it does not know the processor; a wrong product ends with 1.
    assert system.run("sh", "-c", "/opt/lantern/bin/python -m appliance.engine.runtime.product 2>/dev/null") == ""
