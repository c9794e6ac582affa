"""A program that changes a store without end, in a child that can be killed at any instant; one child for each line.

The child is forked from a process that has everything imported, so that a kill takes milliseconds and not a start.
Usage: changing.py STORE TRUSTED BUNDLE...; prints the child's process id for every line that it reads.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from appliance.bundle import BundleStore, TrustedKeys
from appliance.bundle.archive import BundleArchive
from appliance.bundle.folder import describe_bundle
from appliance.bundle.uploads import Uploads
from appliance.errors import BundleError, ConfigError
from tests.bundle.workshop import install_untried

_KEPT, _COMING_AND_GOING = "kept", "guest"


def change_for_ever(store: BundleStore, bundles: list[Path], seed: int) -> None:
    draw = random.Random(seed)
    uploads = Uploads(store)
    while True:
        made = draw.choice(bundles)
        with store.writing():
            match draw.randrange(6):
                case 0:
                    install_untried(store, made)
                    store.prune(_KEPT, keep=2)
                case 1:
                    _upload(store, uploads, made, draw)
                case 2:
                    _unpack(store, made.with_suffix(".lantern"))
                case 3 if len(store.versions(_KEPT)) > 1:
                    _attempt(lambda: store.rollback(_KEPT))
                case 4:
                    _attempt(lambda: store.remove(_COMING_AND_GOING))
                case _:
                    store.aliases.set(f"alias-{draw.randrange(9)}", _KEPT)


def _upload(store: BundleStore, uploads: Uploads, made: Path, draw: random.Random) -> None:
    upload = uploads.begin(describe_bundle(made, store.trusted))
    for file in upload.files:
        data, offset = (made / file.name).read_bytes(), file.received()
        while offset < len(data):
            offset = file.append(offset, data[offset : offset + draw.randrange(1, 90_000)])
    store.activate(store.verify(upload.folder))


def _unpack(store: BundleStore, packed: Path) -> None:
    with packed.open("rb") as file:
        archive = BundleArchive(file)
        with store.stage(archive.manifest(store.trusted).manifest.size_bytes) as staged:
            archive.extract(staged)
            store.activate(store.verify(staged))


def _attempt(action: object) -> None:
    try:
        action()  # type: ignore[operator]
    except (BundleError, ConfigError):
        return


def main(root: Path, trusted: Path, bundles: list[Path]) -> None:
    store = BundleStore(root, TrustedKeys.load(trusted))
    for line in sys.stdin:
        child = os.fork()
        if not child:
            change_for_ever(store, bundles, int(line))
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)
        sys.stdout.write("gone\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(p) for p in sys.argv[3:]])
