"""The package and the image that several modules look at: the one in dist/, else a small one made here."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from images.deb.build import build_deb
from images.raspberry_pi.image import PYTHON, put_together
from images.raspberry_pi.system import dress
from images.workplace import VERSION
from tests.images.boots.conftest import image_path
from tests.images.trees import image_debian, missing

_TOOLS = (
    "mmdebstrap",
    "dpkg-deb",
    "mksquashfs",
    "unsquashfs",
    "mkfs.vfat",
    "mcopy",
    "mdir",
    "mtype",
    "sfdisk",
    "debugfs",
)
_KERNELS = ("6.12.1+stand-in", "7.3.1+stand-in")
_OLDER_TREES = ("bcm2711-rpi-4-b", "bcm2711-rpi-cm4-io", "bcm2837-rpi-3-b", "bcm2837-rpi-zero-2-w", "bcm2835-rpi-b")
_FIRMWARE = ("bootcode.bin", "start.elf", "start4.elf", "fixup.dat", "fixup4.dat")


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package for this machine's processor and trixie's Python."""
    return build_deb("amd64", PYTHON, tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def twin(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The image's system for this machine's processor, made by the same code; its kernels are stand-ins."""
    reason = missing(*_TOOLS) or _old_file_system_tools()
    if reason is not None:
        pytest.skip(reason)
    tree = tmp_path_factory.mktemp("twin")
    tree.chmod(0o755)
    keys = tmp_path_factory.mktemp("update-keys")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LANTERN_UPDATE_KEYS", str(keys))
        debian = image_debian(tree)
        shutil.copy(deb, tree / "tmp/lantern.deb")
        debian.run("dpkg", "--install", "/tmp/lantern.deb")
        (tree / "tmp/lantern.deb").unlink()
        _add_stand_ins(tree)
        dress(tree, version=VERSION, basis="twin")
    yield tree
    shutil.rmtree(tree)


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole card as a file, with its inventory beside it."""
    if image_path().exists():
        return image_path()
    assert request.getfixturevalue("starter_home")  # what a card comes with
    twin: Path = request.getfixturevalue("twin")
    folder = tmp_path_factory.mktemp("card")
    target, scratch = folder / "lantern-small.img", folder / "scratch"
    scratch.mkdir()
    put_together(twin, target, scratch)
    shutil.rmtree(scratch)
    return target


def _old_file_system_tools() -> str | None:
    """Older ones put the present time into a file system, so that two assemblies differ."""
    said = subprocess.run(["mke2fs", "-V"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"mke2fs (\d+)\.(\d+)\.(\d+)", said)
    is_new = found is not None and tuple(map(int, found.groups())) >= (1, 47, 1)
    return None if is_new else "e2fsprogs is older than 1.47.1: make image-deps"


def _add_stand_ins(tree: Path) -> None:
    """Add stand-ins for a board's packages: the copied files, without their content."""
    image = bytearray(4096)
    struct.pack_into("4s", image, 56, b"ARM\x64")
    (tree / "boot").mkdir(exist_ok=True)
    for name, trees in zip(_KERNELS, (_OLDER_TREES, ("bcm2712-rpi-5-b",)), strict=True):
        modules = tree / "usr/lib/modules" / name
        (modules / "kernel").mkdir(parents=True)
        for listing in ("modules.order", "modules.builtin"):
            (modules / listing).touch()
        (tree / "boot" / f"vmlinuz-{name}").write_bytes(image)
        folder = tree / f"usr/lib/linux-image-{name}/broadcom" if trees is _OLDER_TREES else modules / "dtb/broadcom"
        folder.mkdir(parents=True)
        for device_tree in trees:
            (folder / f"{device_tree}.dtb").write_bytes(device_tree.encode())
    firmware = tree / "usr/lib/raspi-firmware"
    firmware.mkdir(parents=True)
    for name in _FIRMWARE:
        (firmware / name).write_bytes(os.urandom(1000))
