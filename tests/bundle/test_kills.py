"""Killed at any instant of an upload, an install, a rollback or a removal, the store is whole: the old, or the new.

`KILLS=1000` in the environment tries as often (`make kills`); the instant is random, with the seed in the name of what
fails. A kill is not a power cut: that folders and files are synced in order is read from the code, not proved here.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from appliance.bundle import BundleStore
from appliance.bundle.folder import open_bundle
from appliance.bundle.uploads import Uploads
from tests.bundle.workshop import Workshop, content_of, install_untried

NUM_KILLS = int(os.environ.get("KILLS", "40"))
KEPT, GUEST = "kept", "guest"


def check(store: BundleStore, known: set[bytes]) -> None:
    """Check that the active bundle is whole, before anything is swept."""
    assert KEPT in store.names()
    for name in store.names():
        assert content_of(store.open(name)) in known


def check_swept(store: BundleStore, known: set[bytes]) -> None:
    """Nothing is left that is not whole, and everything still works."""
    uploads = Uploads(store)
    with store.writing(wait_s=0.0):
        store.sweep()
        uploads.sweep()
    assert not (store.root / ".staging").exists()
    for name in store.names():
        for digest in store.versions(name):
            assert content_of(open_bundle(store.root / name / digest, store.trusted)) in known
    for folder in store.root.iterdir():
        assert folder.name.startswith(".") or folder.name in store.names()
    assert set(store.aliases.all().values()) <= {KEPT}


def test_a_kill_at_any_moment_leaves_a_whole_store(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path)
    bundles = [workshop.make(os.urandom(200_000), name=name) for name in (KEPT, KEPT, KEPT, GUEST, GUEST)]
    for made in bundles:
        workshop.pack(made)
    known = {(made / "model.onnx").read_bytes() for made in bundles}
    store, seed = workshop.store, random.SystemRandom().randrange(1 << 30)
    install_untried(store, bundles[0])
    draw = random.Random(seed)
    program = [sys.executable, "-m", "tests.bundle.changing", str(store.root), str(tmp_path / "trusted")]
    with subprocess.Popen(
        [*program, *map(str, bundles)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as changing:
        assert changing.stdin is not None
        assert changing.stdout is not None
        for i in range(NUM_KILLS):
            changing.stdin.write(f"{seed + i}\n")
            changing.stdin.flush()
            child = int(changing.stdout.readline())
            time.sleep(draw.uniform(0.0, 0.08))  # the instant of the kill is what is tried, not waited for
            os.kill(child, signal.SIGKILL)
            assert changing.stdout.readline() == "gone\n"
            try:
                check(store, known)
                if i % 2:
                    check_swept(store, known)
            except AssertionError as err:
                raise AssertionError(f"after kill {i} with seed {seed}") from err
        changing.stdin.close()
    with store.writing():
        install_untried(store, bundles[1])
    assert content_of(store.open(KEPT)) == (bundles[1] / "model.onnx").read_bytes()
