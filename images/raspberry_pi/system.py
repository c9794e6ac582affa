"""The system of one slot: Debian, the package, our overlay and the boot files, in one read-only squashfs file."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from images.chroot import check_emulation, run_in
from images.raspberry_pi.base import base_tarball
from images.signing import keyring
from images.workplace import cache, run, say

_OVERLAY = Path(__file__).parent / "overlay"
_BOOT = "usr/lib/lantern/boot"
_CMDLINE = (
    "console=tty0 console=serial0,115200 root=PARTUUID=4c414e54-@PARTITION@ rootfstype=squashfs ro rootwait "
    "net.ifnames=0 panic=10 lantern.slot=@SLOT@\n"
)
# What a device that is never changed in place does not need, or must not have.
_REMOVED = (
    "boot",
    "etc/apt",
    "etc/machine-id",
    "etc/ssh/ssh_host_*",
    "initrd.img*",
    "root/.*",
    "usr/lib/linux-image-*",
    "usr/lib/systemd/system-generators/systemd-gpt-auto-generator",
    "usr/lib/systemd/system-generators/systemd-ssh-generator",
    "usr/share/doc/*/changelog*",
    "var/cache",
    "var/lib/apt",
    "var/lib/dbus",
    "var/lib/systemd",
    "var/log",
    "vmlinuz*",
)
# Drivers of hardware that no Raspberry Pi has, or of what an appliance does not do, and device trees that were copied.
_REMOVED_DRIVERS = (
    "kernel/drivers/gpu/drm/amd",
    "kernel/drivers/gpu/drm/nouveau",
    "kernel/drivers/gpu/drm/radeon",
    "kernel/drivers/gpu/drm/xe",
    "kernel/drivers/iio",
    "kernel/drivers/infiniband",
    "kernel/drivers/media",
    "kernel/sound",
    "dtb",
)
_FOLDERS = ("boot/firmware", "data", "etc/apt", "var/cache", "var/lib/private/lantern", "var/lib/systemd", "var/log")


def make_tree(deb: Path, tree: Path, *, version: str) -> None:
    """Make the whole root file system in the folder `tree`, boot files included.

    Raises:
        SystemExit: a step failed, or this machine cannot emulate.
    """
    check_emulation()
    run("tar", "--extract", "--numeric-owner", "--xattrs", "--file", _installed_tarball(deb), "--directory", tree)
    dress(tree, version=version, basis=base_tarball().name)


def dress(tree: Path, *, version: str, basis: str) -> None:
    """Make a device's system of a Debian with the package and two kernels; `basis` names what is in it."""
    _add_overlay(tree, version)
    _add_boot_files(tree, basis)
    _remove(tree)
    run("systemctl", f"--root={tree}", "preset-all")
    _declare_up_to_date(tree)


def squash(tree: Path, target: Path) -> None:
    """Squash the tree into one file: the same bytes for the same tree."""
    target.unlink(missing_ok=True)
    options = ("-comp", "zstd", "-Xcompression-level", "10", "-b", "256K", "-noappend", "-quiet", "-no-progress")
    run("mksquashfs", tree, target, *options)


def _installed_tarball(deb: Path) -> Path:
    """Debian with our package, compiled; kept, since the compiling is emulated."""
    base = base_tarball()
    key = hashlib.sha256(base.name.encode() + deb.read_bytes()).hexdigest()[:16]
    tarball = cache() / f"raspberry-pi-installed-{key}.tar"
    if tarball.exists():
        return tarball
    for old in cache().glob("raspberry-pi-installed-*.tar"):
        old.unlink()
    say("The package, installed and compiled under emulation")
    with tempfile.TemporaryDirectory(dir=cache(), prefix="tree-") as folder:
        tree = Path(folder)
        run("tar", "--extract", "--numeric-owner", "--xattrs", "--file", base, "--directory", tree)
        shutil.copy(deb, tree / "tmp" / deb.name)
        run_in(tree, "dpkg", "--install", f"/tmp/{deb.name}")  # noqa: S108
        (tree / "tmp" / deb.name).unlink()
        staged = tarball.with_name(f".{tarball.name}")
        run("tar", "--create", "--numeric-owner", "--xattrs", "--sort=name", "--file", staged, "--directory", tree, ".")
        staged.rename(tarball)
    return tarball


def _add_overlay(tree: Path, version: str) -> None:
    run("cp", "--recursive", "--no-preserve=ownership", f"{_OVERLAY}/.", tree)
    for path in [p for p in _OVERLAY.rglob("*") if p.is_file()]:
        (tree / path.relative_to(_OVERLAY)).chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    (tree / "usr/lib/lantern/version").write_text(f"{version}\n", "utf-8")
    configuration = tree / "etc/rauc/system.conf"
    text = configuration.read_text("utf-8")
    configuration.write_text(text.replace("[system]\n", f"[system]\nmin-bundle-version={version}\n", 1), "utf-8")
    shutil.copy(keyring(), tree / "etc/rauc/keyring.pem")
    link = tree / "etc/resolv.conf"
    link.unlink(missing_ok=True)
    link.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (tree / "etc/hostname").write_text("lantern\n", "utf-8")


def _add_boot_files(tree: Path, basis: str) -> None:
    """Add kernels, initramfs and device trees of every board, as they lie in a slot's folder on the FAT partition.

    The newer kernel, of the backports, is for the Pi 5; its device tree too.
    """
    boot = tree / _BOOT
    boot.mkdir(parents=True)
    (boot / "cmdline.txt").write_text(_CMDLINE, "utf-8")
    older, newer = _kernels(tree)
    for kernel, suffix, patterns in (
        (older, "", ("bcm2711-rpi-*", "bcm2837-rpi-*")),
        (newer, "-pi5", ("bcm2712-*",)),
    ):
        shutil.copy(tree / "boot" / f"vmlinuz-{kernel}", boot / f"vmlinuz{suffix}")
        shutil.copy(_initramfs(tree, kernel, basis), boot / f"initrd{suffix}.img")
        folders = (tree / "usr/lib" / f"linux-image-{kernel}/broadcom", tree / f"usr/lib/modules/{kernel}/dtb/broadcom")
        trees = [path for folder in folders for pattern in patterns for path in folder.glob(f"{pattern}.dtb")]
        if not trees:
            raise SystemExit(f"The kernel {kernel} has no device trees where they are looked for: {folders}.")
        for path in trees:
            shutil.copy(path, boot / path.name)
        check_raw(boot / f"vmlinuz{suffix}")


def check_raw(kernel: Path) -> None:
    """Check for a raw arm64 Image, which the firmware starts; it starts nothing that unpacks itself by EFI."""
    with kernel.open("rb") as file:
        header = file.read(64)
    if header[56:60] != b"ARM\x64":
        raise SystemExit(f"{kernel.name} is no raw arm64 kernel, so a Raspberry Pi would not start it.")


def _kernels(tree: Path) -> list[str]:
    """Return the two versions, older first."""
    names = [p.name for p in (tree / "usr/lib/modules").iterdir()]
    if len(names) != 2:
        raise SystemExit(f"Two kernels are expected in the image, and there are {len(names)}: {', '.join(names)}.")
    return sorted(names, key=lambda name: [int(part) for part in name.partition("+")[0].split(".")])


def _initramfs(tree: Path, kernel: str, basis: str) -> Path:
    """Made by the tree's own tools under emulation, and kept as long as what goes into it is the same."""
    digest = hashlib.sha256(kernel.encode() + basis.encode())
    sources = [tree / "usr/lib/lantern/slot.sh", *sorted((tree / "etc/initramfs-tools").rglob("*"))]
    for path in sources:
        digest.update(str(path.relative_to(tree)).encode() + (path.read_bytes() if path.is_file() else b""))
    kept = cache() / f"initrd-{digest.hexdigest()[:16]}.img"
    if not kept.exists():
        say(f"The initramfs for {kernel}")
        run_in(tree, "mkinitramfs", "-o", "/tmp/initrd.img", kernel)  # noqa: S108
        shutil.move(tree / "tmp/initrd.img", kept)
    return kept


def _remove(tree: Path) -> None:
    for pattern in _REMOVED:
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for modules in (tree / "usr/lib/modules").iterdir():
        for name in _REMOVED_DRIVERS:
            shutil.rmtree(modules / name, ignore_errors=True)
        run("depmod", "--basedir", tree, modules.name)
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "var/lib/private").chmod(0o700)
    (tree / "var/lib/lantern").symlink_to("private/lantern")
    (tree / "etc/machine-id").write_text("uninitialized\n", "utf-8")


def _declare_up_to_date(tree: Path) -> None:
    """Spare every start what systemd does after /usr was changed: linker cache, users and catalogue are in the tree.

    /etc and /var are in memory, so a device would do it again each time.
    """
    changed_ns = (tree / "usr").stat().st_mtime_ns
    for name in ("etc/.updated", "var/.updated"):
        (tree / name).touch()
        os.utime(tree / name, ns=(changed_ns, changed_ns))
