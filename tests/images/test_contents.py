"""Contents of an image, read without booting it: the one in dist/, else a small one that the same code assembled."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from images.raspberry_pi.layout import BOOT, DATA, DISK_ID, EXTENDED, SYSTEM_A, SYSTEM_B, Partition
from images.raspberry_pi.models import STARTERS
from images.workplace import run
from tests.images.boots.conftest import image_path

_TOOLS = ("mdir", "mtype", "debugfs", "unsquashfs", "sfdisk")
_SIZE_LIMIT = 650_000_000

pytestmark = pytest.mark.skipif(any(shutil.which(t) is None for t in _TOOLS), reason=f"needs {', '.join(_TOOLS)}")


def fat(image: Path, name: str) -> bytes:
    command = ["mtype", "-i", f"{image}@@{BOOT.start}M", f"::{name}"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def fat_names(image: Path, folder: str = "") -> set[str]:
    listed = run("mdir", "-b", "-i", f"{image}@@{BOOT.start}M", f"::{folder}")
    return {line.strip().removeprefix("::/") for line in listed.splitlines() if line.startswith("::/")}


def cut(image: Path, partition: Partition, target: Path) -> None:
    """One partition as a file of its own."""
    where = [f"skip={partition.start}", f"count={partition.size}"]
    command = ["dd", f"if={image}", f"of={target}", "bs=1M", *where, "conv=sparse"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def data(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Ask the data partition, in debugfs' words."""
    partition = tmp_path_factory.mktemp("data") / "p4"
    cut(image, DATA, partition)
    yield lambda request: run("debugfs", "-R", request, partition)
    partition.unlink()


@pytest.fixture(scope="module")
def system(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The system of slot a, unpacked."""
    folder = tmp_path_factory.mktemp("system")
    squashfs, tree = folder / "system.squashfs", folder / "tree"
    cut(image, SYSTEM_A, squashfs)
    exclude = ["usr/lib/firmware", "usr/lib/modules", "usr/share/zoneinfo", "dev"]
    run("unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-dest", tree, "-excludes", squashfs, *exclude)
    squashfs.unlink()
    yield tree
    shutil.rmtree(folder)


def test_the_table_is_what_devices_in_the_field_have(image: Path) -> None:
    table = json.loads(run("sfdisk", "--json", image))["partitiontable"]
    assert (table["label"], table["id"]) == ("dos", f"0x{DISK_ID}")
    found = {int(p["node"].rpartition("img")[2]): (p["start"], p["size"], p["type"]) for p in table["partitions"]}
    for partition in (BOOT, EXTENDED, DATA, SYSTEM_A, SYSTEM_B):
        assert found[partition.number] == (partition.start * 2048, partition.size * 2048, partition.type)


def test_every_board_finds_its_kernel_and_its_device_tree(image: Path) -> None:
    for folder in ("a/", ""):
        names = {Path(name).name for name in fat_names(image, folder)}
        assert names >= {"vmlinuz", "initrd.img", "vmlinuz-pi5", "initrd-pi5.img", "cmdline.txt"}
        for board in ("2837-rpi-3-b", "2837-rpi-zero-2-w", "2711-rpi-4-b", "2711-rpi-cm4-io", "2712-rpi-5-b"):
            assert f"bcm{board}.dtb" in names
    assert {"start4.elf", "fixup4.dat", "bootcode.bin", "start.elf", "config.txt"} <= fat_names(image)


def test_the_firmware_starts_slot_a_of_a_new_card(image: Path) -> None:
    assert fat(image, "slot.txt") == b"os_prefix=a/\n"
    assert b"root=PARTUUID=4c414e54-05" in fat(image, "a/cmdline.txt")
    assert b"lantern.slot=a" in fat(image, "a/cmdline.txt")


def test_the_settings_on_the_card_are_readable_and_say_nothing_yet(image: Path) -> None:
    sections = tomllib.loads(fat(image, "lantern.toml").decode())
    assert not any(sections.values())


def test_the_models_are_on_the_data_partition_with_the_key_that_signed_them(data: Callable[[str], str]) -> None:
    for name in STARTERS:
        active = re.search(r"[0-9a-f]{64}", data(f"cat /lantern/bundles/{name}/active"))
        assert active
        assert "manifest.json" in data(f"ls /lantern/bundles/{name}/{active[0]}")
    assert ".pub" in data("ls /lantern/keys/trusted")


def test_nothing_secret_or_unique_is_in_it(system: Path, data: Callable[[str], str]) -> None:
    assert (system / "etc/machine-id").read_text() == "uninitialized\n"
    assert not list((system / "etc/ssh").glob("ssh_host_*"))
    assert not list(system.glob("var/lib/systemd/random-seed"))
    assert "device-id" not in data("ls /lantern")
    assert "api" not in data("ls /lantern/keys").split()
    shadow = (system / "etc/shadow").read_text()
    assert all(line.split(":")[1] in ("*", "!", "!*", "!!") for line in shadow.splitlines())
    for path in [p for kind in ("key", "pem") for p in system.glob(f"etc/**/*.{kind}") if not p.is_symlink()]:
        assert "PRIVATE KEY" not in path.read_text("utf-8", "replace"), path


def test_no_address_of_the_workstation_that_built_it_is_in_it(system: Path) -> None:
    assert not list((system / "etc/apt").rglob("*"))
    assert not list((system / "var/log").rglob("*"))


def test_its_units_are_valid_and_without_a_cycle(system: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    units = ["default.target", *sorted(p.name for p in (system / "usr/lib/systemd/system").glob("lantern*.*[!d]"))]
    command = ["systemd-analyze", "verify", f"--root={system}", "--man=no", "--recursive-errors=no", *units]
    result = subprocess.run(
        [u.replace("@.service", "@sda1.service") for u in command], capture_output=True, text=True, check=False
    )
    said = [line for line in result.stderr.splitlines() if "lantern" in line or "cycle" in line]
    assert not said, result.stderr


def test_what_has_to_run_is_enabled_and_nothing_that_a_device_does_not_need(system: Path) -> None:
    wants = {p.name for p in (system / "etc/systemd/system").glob("*.wants/*")}
    assert {"lantern.service", "lantern.socket", "lantern-tls.socket", "lantern-confirm.service"} <= wants
    assert not wants & {"ssh.service", "apt-daily.timer", "getty@tty1.service", "e2scrub_reap.service"}


def test_the_inventory_names_every_package_of_the_image(image: Path, system: Path) -> None:
    document = json.loads(image.with_suffix(".cdx.json").read_bytes())
    kinds = [c.get("purl", "model").split("/")[0] for c in document["components"]]
    installed = (system / "var/lib/dpkg/status").read_text().count("\nStatus: install ok installed")
    site = next(system.glob("opt/lantern/lib/python3*/site-packages"))
    assert kinds.count("pkg:deb") == installed
    assert kinds.count("pkg:pypi") == len(list(site.glob("*.dist-info")))
    assert kinds.count("model") == len(STARTERS)
    assert len({c["bom-ref"] for c in document["components"]}) == len(kinds)


def test_the_download_is_small_enough_and_its_sum_is_right() -> None:
    compressed = image_path().with_name(f"{image_path().name}.xz")
    if not compressed.exists():
        pytest.skip("the image is not compressed")
    assert compressed.stat().st_size <= _SIZE_LIMIT
    run("sha256sum", "--check", f"{compressed.name}.sha256", cwd=compressed.parent)
    [entry] = json.loads(image_path().with_suffix(".rpi-imager-manifest").read_bytes())["os_list"]
    assert entry["image_download_size"] == compressed.stat().st_size
    assert entry["extract_size"] == image_path().stat().st_size
    assert entry["init_format"] == "cloudinit"
