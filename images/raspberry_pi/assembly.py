"""Puts a card together from its parts: no loop device, no mount, no root, and the same bytes for the same parts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from images.raspberry_pi.layout import BOOT, DATA, FAT_MIB, RESERVED, SIZE_MIB, SYSTEM_A, SYSTEM_MIB, TABLE, Partition
from images.workplace import run, source_date_epoch

_HERE = Path(__file__).parent
_MIB = 1 << 20
_FIRMWARE = ("bootcode.bin", "start.elf", "start4.elf", "fixup.dat", "fixup4.dat")
_FAT_IDS = {BOOT.number: "4c414e31", RESERVED.number: "4c414e32"}
_DATA_ID = "4c414e54-0000-4000-8000-000000000004"
_HASH_SEED = "4c414e54-0000-4000-8000-000000000005"


def assemble(tree: Path, system: Path, data: Path, target: Path, scratch: Path) -> None:
    """Write the image of a card: boot files out of `tree`, slot a from the file `system`, the folder `data` as it is.

    Raises:
        SystemExit: something does not fit.
    """
    if system.stat().st_size > SYSTEM_MIB * _MIB:
        raise SystemExit(f"The system takes {system.stat().st_size >> 20} MiB, and a slot has {SYSTEM_MIB}.")
    boot = scratch / "boot"
    _collect_boot_files(tree, boot)
    target.unlink(missing_ok=True)
    with target.open("wb") as file:
        file.truncate(SIZE_MIB * _MIB)
    run("sfdisk", "--quiet", target, stdin=TABLE)
    _put(_fat(BOOT, "LANTERN", boot, scratch), BOOT, target)
    _put(_fat(RESERVED, "LANTERN2", None, scratch), RESERVED, target)
    _put(system, SYSTEM_A, target)
    _put(_ext4(data, scratch), DATA, target)


def _collect_boot_files(tree: Path, boot: Path) -> None:
    """Collect the firmware's own files, ours, the kernels of slot a, and the same once more in the root.

    The firmware ignores os_prefix in silence where a kernel or the board's device tree is missing: with something to
    start in the root, such a card still starts.
    """
    boot.mkdir()
    for name in _FIRMWARE:
        shutil.copy(tree / "usr/lib/raspi-firmware" / name, boot / name)
    for name in ("config.txt", "lantern.toml"):
        shutil.copy(_HERE / name, boot / name)
    (boot / "slot.txt").write_text("os_prefix=a/\n", "utf-8")
    kernels = tree / "usr/lib/lantern/boot"
    for folder in (boot / "a", boot):
        shutil.copytree(kernels, folder, dirs_exist_ok=True)
        text = (kernels / "cmdline.txt").read_text("utf-8")
        (folder / "cmdline.txt").write_text(text.replace("@SLOT@", "a").replace("@PARTITION@", "05"), "utf-8")


def _fat(partition: Partition, label: str, folder: Path | None, scratch: Path) -> Path:
    """Make a FAT file system with the folder's files, sorted, of one time."""
    image = scratch / f"p{partition.number}"
    with image.open("wb") as file:
        file.truncate(FAT_MIB * _MIB)
    run("mkfs.vfat", "--invariant", "-F", "32", "-n", label, "-i", _FAT_IDS[partition.number], image)
    if folder is not None:
        _set_times(folder)
        # One at a time, since mcopy goes through a folder in the order of the disk. mtools keeps times in local time.
        for path in sorted(folder.rglob("*")):
            inside = f"::{path.relative_to(folder)}"
            command = ("mmd", "-i", image, inside) if path.is_dir() else ("mcopy", "-m", "-i", image, path, inside)
            run(*command, TZ="UTC")
    return image


def _ext4(folder: Path, scratch: Path) -> Path:
    image = scratch / f"p{DATA.number}"
    with image.open("wb") as file:
        file.truncate(DATA.size * _MIB)
    _set_times(folder)
    options = f"hash_seed={_HASH_SEED},lazy_itable_init=0,root_owner=0:0"
    run(
        "mke2fs",
        *("-q", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "lantern-data", "-U", _DATA_ID, "-E", options),
        *("-d", folder, image),
        E2FSPROGS_FAKE_TIME=str(source_date_epoch()),
    )
    return image


def _set_times(folder: Path) -> None:
    epoch = source_date_epoch()
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def _put(part: Path, partition: Partition, target: Path) -> None:
    command = ["dd", f"if={part}", f"of={target}", "bs=1M", f"seek={partition.start}", "conv=notrunc,sparse"]
    subprocess.run(command, check=True, capture_output=True)
