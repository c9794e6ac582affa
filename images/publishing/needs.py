"""The needs of a release, told and checked before anything is built."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from appliance.home import Home
from images.chroot import emulates
from images.publishing.notes import changelog_entry
from images.raspberry_pi.models import STARTERS
from images.signing import RELEASE_KEY, SIGNING_FILES
from images.workplace import ROOT, VERSION

_TOOLS = ("git", "dpkg-deb", "make", "aarch64-linux-gnu-g++", "x86_64-linux-gnu-g++")
_IMAGE_TOOLS = ("mmdebstrap", "mksquashfs", "mke2fs", "mkfs.vfat", "mcopy", "sfdisk", "rauc", "xz", "depmod")
_DISK_GB, _IMAGE_DISK_GB = 3, 15
TIMES = (
    "Packages and wheel, twice: about 3 minutes on two quiet cores. The card and its update: 10 minutes more, and 14 "
    "once for Debian's packages, under emulation."
)


def missing_needs(
    keys: Path, home: Home, out: Path, *, has_image: bool, root: Path = ROOT, version: str = VERSION
) -> list[str]:
    """Return each need that is not met, with what to do."""
    found = [*_of_the_tree(root, version), *_of_the_keys(keys), *_of_the_tools(_TOOLS)]
    if has_image:
        found += [*_of_the_image(home), *_of_the_tools(_IMAGE_TOOLS)]
    wanted_gb = _IMAGE_DISK_GB if has_image else _DISK_GB
    existing = next(p for p in (out, *out.parents) if p.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb < wanted_gb:
        found.append(f"disk: {free_gb:.0f} GB are free in {existing}, and {wanted_gb} are needed")
    return found


def describe_needs(keys: Path, *, has_image: bool) -> str:
    """Return what a release needs and takes."""
    return "\n".join(
        [
            f"Lantern {VERSION} is released from a clean tree with:",
            f"  keys      {keys}: {', '.join((*SIGNING_FILES, RELEASE_KEY))}",
            f"  root      {'for the image' if has_image else 'not needed without the image'}",
            f"  disk      {_IMAGE_DISK_GB if has_image else _DISK_GB} GB",
            f"  tools     {', '.join((*_TOOLS, *(_IMAGE_TOOLS if has_image else ())))}",
            f"  time      {TIMES}",
        ]
    )


def _of_the_tree(root: Path, version: str) -> Iterator[str]:
    command = ["git", "-C", str(root), "status", "--porcelain"]
    status = subprocess.run(command, capture_output=True, text=True, check=False)
    if status.returncode:
        yield f"tree: {root} is no clone of the repository, so that nobody could build it again"
        return
    changed = [line[3:] for line in status.stdout.splitlines()]
    if changed:
        yield f"tree: {len(changed)} files are changed or new, {changed[0]} among them; commit or remove them"
    try:
        changelog_entry(version, (root / "CHANGELOG.md").read_text("utf-8"))
    except (OSError, SystemExit) as err:
        yield f"changelog: {err}"


def _of_the_keys(keys: Path) -> Iterator[str]:
    absent = [name for name in (*SIGNING_FILES, RELEASE_KEY) if not (keys / name).is_file()]
    if absent:
        yield (
            f"keys: {', '.join(absent)} not in {keys}; set LANTERN_UPDATE_KEYS to the folder of those that devices "
            "trust, or make new ones for new devices: make release-keys"
        )


def _of_the_tools(tools: tuple[str, ...]) -> Iterator[str]:
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        yield f"tools: {', '.join(absent)} not installed; make image-deps installs what Debian has"


def _of_the_image(home: Home) -> Iterator[str]:
    if os.geteuid() != 0:
        yield "root: the image needs it, for mmdebstrap and the chroot"
    if not emulates():
        yield "emulation: this machine does not run arm64 programs; make image-deps lets it"
    absent = [name for name in STARTERS if not (home.bundles / name / "active").exists()]
    if absent:
        yield f"models: {', '.join(absent)} not in {home.bundles}; build them with lantern-quantize starter"
