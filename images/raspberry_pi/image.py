"""The image and the update of one version: everything that people download, in dist/."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from images import downloads, inventory
from images.deb.build import build_deb
from images.raspberry_pi.assembly import assemble
from images.raspberry_pi.models import add_models
from images.raspberry_pi.system import make_tree, squash
from images.signing import update_keys
from images.workplace import VERSION, cache, run, say

PYTHON = "3.13"  # trixie's
COMPATIBLE = "lantern-raspberry-pi"
_NAME = "raspberry-pi"


def build_image(out: Path, *, version: str = VERSION, is_committed_only: bool = True, compressed: bool = True) -> Path:
    """Build lantern-VERSION-raspberry-pi.img, assembled twice and compared, with all that belongs to it.

    Raises:
        SystemExit: a step failed, or the two assemblies differ.
    """
    image = out / f"lantern-{version}-{_NAME}.img"
    with tempfile.TemporaryDirectory(dir=cache(), prefix="image-") as folder:
        scratch = Path(folder)
        deb = build_deb("arm64", PYTHON, out, is_committed_only=is_committed_only)
        tree = scratch / "tree"
        tree.mkdir()
        make_tree(deb, tree, version=version)
        put_together(tree, image, scratch)
    if compressed:
        _compress(image)
    return image


def build_card_and_update(out: Path, deb: Path, *, version: str = VERSION) -> tuple[Path, Path]:
    """Build the card of a release and the update that carries the same system, which is made twice and compared.

    Raises:
        SystemExit: a step failed, or the two systems differ.
    """
    image = out / f"lantern-{version}-{_NAME}.img"
    with tempfile.TemporaryDirectory(dir=cache(), prefix="release-") as folder:
        scratch = Path(folder)
        tree, again = scratch / "tree", scratch / "again"
        again.mkdir()
        make_tree(deb, again, version=version)
        squash(again, scratch / "again.squashfs")
        shutil.rmtree(again)
        wanted = downloads.sha256_of(scratch / "again.squashfs")
        (scratch / "again.squashfs").unlink()
        tree.mkdir()
        make_tree(deb, tree, version=version)
        put_together(tree, image, scratch)
        found = downloads.sha256_of(scratch / "system.squashfs")
        if found != wanted:
            raise SystemExit(f"Two systems of the same parts differ: {wanted} and {found}.")
        say(f"Two systems are the same: sha256 {found}")
        update = sign_update(scratch / "system.squashfs", out, version=version, keys=update_keys())
    _compress(image)
    return image, update


def put_together(tree: Path, image: Path, scratch: Path) -> None:
    """Assemble the card of a system: squashed, with the starter models, assembled twice, compared, with its inventory.

    Raises:
        SystemExit: something does not fit, or the two assemblies differ.
    """
    data, system = scratch / "data", scratch / "system.squashfs"
    squash(tree, system)
    say(f"The system: {system.stat().st_size / 1e6:.0f} MB")
    (data / "lantern").mkdir(parents=True)
    add_models(data / "lantern")
    _assemble_twice(tree, system, data, image, scratch)
    _write_inventory(tree, data / "lantern/bundles", image)


def build_update(
    out: Path, *, version: str = VERSION, is_committed_only: bool = True, change: Callable[[Path], None] | None = None
) -> Path:
    """Build lantern-VERSION-raspberry-pi.raucb, signed, for `lantern update push`; tests change the tree before.

    Raises:
        SystemExit: a step failed.
    """
    with tempfile.TemporaryDirectory(dir=cache(), prefix="update-") as folder:
        scratch = Path(folder)
        deb = build_deb("arm64", PYTHON, out, is_committed_only=is_committed_only)
        tree, system = scratch / "tree", scratch / "system.squashfs"
        tree.mkdir()
        make_tree(deb, tree, version=version)
        if change is not None:
            change(tree)
        squash(tree, system)
        return sign_update(system, out, version=version, keys=update_keys())


def sign_update(system: Path, out: Path, *, version: str, keys: Path) -> Path:
    """Make a RAUC bundle of one system file, signed with these keys."""
    out.mkdir(parents=True, exist_ok=True)
    target = out / f"lantern-{version}-{_NAME}.raucb"
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=system.parent, prefix="bundle-") as folder:
        contents = Path(folder)
        shutil.copy(system, contents / "system.squashfs")
        (contents / "manifest.raucm").write_text(
            f"[update]\ncompatible={COMPATIBLE}\nversion={version}\n\n[bundle]\nformat=verity\n\n"
            "[image.system]\nfilename=system.squashfs\n",
            "utf-8",
        )
        signing = (f"--cert={keys / 'signing.pem'}", f"--key={keys / 'signing.key'}", f"--keyring={keys / 'ca.pem'}")
        run("rauc", "bundle", *signing, contents, target)
    say(f"{target} ({target.stat().st_size / 1e6:.0f} MB)")
    return target


def _compress(image: Path) -> None:
    xz = downloads.compress(image)
    downloads.write_sum(xz)
    downloads.write_imager_manifest(image, xz)
    say(f"{xz} ({xz.stat().st_size / 1e6:.0f} MB)")


def _assemble_twice(tree: Path, system: Path, data: Path, image: Path, scratch: Path) -> None:
    sums: list[str] = []
    for target in (scratch / "first.img", image):
        work = scratch / f"assembly-{len(sums)}"
        work.mkdir()
        assemble(tree, system, data, target, work)
        shutil.rmtree(work)
        sums.append(downloads.sha256_of(target))
    if sums[0] != sums[1]:
        raise SystemExit(f"Two assemblies of the same parts differ: {sums[0]} and {sums[1]}.")
    (scratch / "first.img").unlink()
    say(f"Two assemblies are the same: sha256 {sums[0]}")


def _write_inventory(tree: Path, bundles: Path, image: Path) -> None:
    site = tree / f"opt/lantern/lib/python{PYTHON}/site-packages"
    debs, wheels, models = inventory.debs(tree), inventory.wheels(site), inventory.models(bundles)
    text = inventory.document(f"lantern-{_NAME}", [*debs, *wheels, *models])
    image.with_suffix(".cdx.json").write_text(text, "utf-8")
    image.with_suffix(".packages.txt").write_text(inventory.listing(debs), "utf-8")
    say(f"{len(debs)} Debian packages, {len(wheels)} wheels, {len(models)} models")
