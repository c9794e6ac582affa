"""The files that people download: the compressed image, its sum, and the Raspberry Pi Imager's manifest."""

from __future__ import annotations

import datetime
import hashlib
import json
import subprocess
from pathlib import Path

from images.workplace import VERSION, source_date_epoch

_DEVICES = ["pi3-64bit", "pi4-64bit", "pi5-64bit"]


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compress(image: Path) -> Path:
    """Compress to IMAGE.xz: fast, since most of it is compressed inside already."""
    target = image.with_name(f"{image.name}.xz")
    # Blocks of a fixed size, so that the bytes do not depend on the number of threads.
    command = ["xz", "-1", "--threads=2", "--block-size=24MiB", "--keep", "--force", "--stdout", str(image)]
    with target.open("wb") as file:
        subprocess.run(command, stdout=file, check=True)
    return target


def write_sum(path: Path) -> None:
    """Write PATH.sha256, as `sha256sum --check` reads it."""
    path.with_name(f"{path.name}.sha256").write_text(f"{sha256_of(path)}  {path.name}\n", "utf-8")


def write_imager_manifest(image: Path, compressed: Path) -> Path:
    """Write the file that Raspberry Pi Imager 2 opens; it then offers its settings as cloud-init's files."""
    released = datetime.datetime.fromtimestamp(source_date_epoch(), datetime.UTC).date().isoformat()
    entry = {
        "name": f"Lantern {VERSION}",
        "description": "An edge inference appliance: the OpenAI API on your network, with two small models inside",
        "icon": "",
        "url": compressed.name,
        "extract_size": image.stat().st_size,
        "extract_sha256": sha256_of(image),
        "image_download_size": compressed.stat().st_size,
        "image_download_sha256": sha256_of(compressed),
        "release_date": released,
        "devices": _DEVICES,
        "architecture": "armv8",
        "init_format": "cloudinit",
    }
    target = image.with_suffix(".rpi-imager-manifest")
    target.write_text(json.dumps({"os_list": [entry]}, indent=1) + "\n", "utf-8")
    return target
