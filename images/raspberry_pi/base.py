"""The Debian part of the root file system: a tarball made by mmdebstrap, kept until its list of packages changes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from images.apt_sources import trixie_sources
from images.workplace import cache, run, say

_HERE = Path(__file__).parent
_OPTIONS = [
    '--aptopt=APT::Install-Recommends "false"',
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
]
# The initramfs that ships is made from the finished tree; those that the packages make meanwhile hold one module, since
# mkinitramfs takes four minutes under emulation with all of them. raspi-firmware wants a folder for its boot files.
_SHORT_INITRAMFS = (
    'mkdir -p "$1/boot/firmware" "$1/etc/initramfs-tools/conf.d"; echo ext4 > "$1/etc/initramfs-tools/modules"; '
    'printf "MODULES=list\\nCOMPRESS=zstd\\nCOMPRESSLEVEL=1\\n" > "$1/etc/initramfs-tools/conf.d/lantern"'
)
# mmdebstrap's own variables; apt runs outside the new system, so without emulation.
_ADD_BACKPORTS_KERNEL = (
    'export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; kernel=$(apt-cache depends linux-image-arm64/trixie-backports '
    "| sed -n 's/^ *Depends: \\(linux-image-.*\\)/\\1/p'); "
    'apt-get install --yes --no-install-recommends --target-release trixie-backports "$kernel"'
)


def packages() -> list[str]:
    """Return the packages of packages.txt."""
    return [line for line in (_HERE / "packages.txt").read_text("utf-8").splitlines() if line[:1] not in ("", "#")]


def base_tarball() -> Path:
    """Return the tarball for the present list of packages; make it if it is absent."""
    recipe = "\n".join([*packages(), *_OPTIONS, _SHORT_INITRAMFS, _ADD_BACKPORTS_KERNEL])
    tarball = cache() / f"raspberry-pi-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.tar"
    if not tarball.exists():
        say("Debian packages (about ten minutes of emulation, once)")
        _make(tarball)
    return tarball


def _make(tarball: Path) -> None:
    archives = cache() / "apt"
    archives.mkdir(exist_ok=True)
    staged = tarball.with_name(f".{tarball.name}")
    run(
        "mmdebstrap",
        "--variant=minbase",
        "--architectures=arm64",
        "--skip=download/empty,essential/unlink",
        f"--include={','.join(packages())}",
        *_OPTIONS,
        '--setup-hook=mkdir -p "$1/var/cache/apt/archives"',
        f"--setup-hook=sync-in {archives} /var/cache/apt/archives/",
        f"--essential-hook={_SHORT_INITRAMFS}",
        f"--customize-hook={_ADD_BACKPORTS_KERNEL}",
        '--customize-hook=rm -rf "$1/var/cache/apt/archives/partial" "$1/var/cache/apt/archives/lock"',
        f"--customize-hook=sync-out /var/cache/apt/archives {archives}",
        "--format=tar",
        "trixie",
        staged,
        *trixie_sources(),
        DEBIAN_FRONTEND="noninteractive",
    )
    staged.rename(tarball)
