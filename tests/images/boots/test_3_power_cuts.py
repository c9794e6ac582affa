"""The plug is pulled while an update and a model are being installed, again and again: the board always comes back.

Both are on their way at once, so that one start afterwards shows both. QEMU is killed: what the guest had not flushed
may be on the card or not, as with a real one, except that a half-written sector is not played.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from appliance.bundle import Manifest, SigningKey, write_bundle
from appliance.home import lantern_home
from images.raspberry_pi.image import sign_update
from images.signing import update_keys
from images.workplace import run
from tests.images.boots.board import MINUTES, Board
from tests.images.boots.figures import tell
from tests.images.boots.user import CHAT, EMBEDDING, User

_CUTS = int(os.environ.get("LANTERN_POWER_CUTS", "10"))
_SEED = 20261123
_NOISE_BYTES = 60 << 20


@pytest.fixture(scope="module")
def unbootable(board: Board, scratch: Path) -> Path:
    """A system with kernels and nothing that they could start: all steps of an update, and never to be left running."""
    folder = scratch / "unbootable"
    boot = folder / "usr/lib/lantern/boot"
    boot.mkdir(parents=True)
    (folder / "noise").write_bytes(random.Random(_SEED).randbytes(_NOISE_BYTES))
    board.card.copy("a", boot)
    command_line = (boot / "cmdline.txt").read_text("utf-8")
    (boot / "cmdline.txt").write_text(
        command_line.replace("4c414e54-05", "4c414e54-@PARTITION@").replace("slot=a", "slot=@SLOT@"), "utf-8"
    )
    system = scratch / "unbootable.squashfs"
    run("mksquashfs", folder, system, "-noappend", "-quiet", "-no-progress", "-noD", "-noF")
    shutil.rmtree(folder)
    return system


class Installing:
    """One model after another, each of another name, until it is stopped."""

    def __init__(self, user: User, folder: Path, prefix: str, device: str) -> None:
        self._user, self._folder, self._prefix, self._device = user, folder, prefix, device
        self._is_stopped = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="asyncio_installing")
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Tell if a model is on its way, rather than between two."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        self._is_stopped.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._is_stopped.is_set():
            bundle = variant(self._folder, f"{self._prefix}-{number}")
            self._process = self._user.start("models", "install", str(bundle), "--device", self._device)
            if self._is_stopped.is_set():  # it was since it was looked at
                self._process.kill()
            self._process.communicate()
            shutil.rmtree(bundle)
            number += 1


def variant(folder: Path, name: str) -> Path:
    """The embedding model under another name, so that a device has to install it."""
    home = lantern_home()
    target = folder / name
    shutil.copytree((home.bundles / EMBEDDING / "active").resolve(), target)
    manifest = Manifest.from_bytes((target / "manifest.json").read_bytes())
    write_bundle(target, manifest.model_copy(update={"name": name}), SigningKey.load(home.signing_key))
    return target


@pytest.mark.parametrize("cut", range(_CUTS))
def test_it_comes_back_from_a_cut_during_an_update_and_a_models_installation(
    board: Board, user: User, unbootable: Path, scratch: Path, cut: int
) -> None:
    runs = user.administer("GET", "/admin/update")["running"]
    bundle = sign_update(unbootable, scratch / "cuts", version=f"9.9.{cut}", keys=update_keys())
    moment = random.Random(_SEED + cut)
    share, wait_s = moment.uniform(0.0, 1.0), moment.uniform(0.0, 30.0)
    # It is written as it comes, then to the slot, then its kernels to the FAT partition.
    all_bytes = bundle.stat().st_size + 2 * unbootable.stat().st_size - _NOISE_BYTES
    end_bytes = board.written_bytes() + int(share * all_bytes)
    mark = board.mark()
    update = user.start("update", "push", str(bundle), "--device", board.tls_url)
    board.wait_until_written(end_bytes)
    installing = Installing(user, scratch, f"cut-{cut}", board.tls_url)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            update.wait(wait_s)
        board.wait_until(lambda: installing.is_busy, "a model on its way", timeout_s=MINUTES)
        assert update.poll() is None, update.communicate()
    finally:
        board.cut_power()
        installing.stop()
        update.kill()
        update.communicate()
    steps = re.findall(r"lantern-update: \S+ is \S+ \S+|lantern-slot: \S+ \S+", board.text(mark)) or ["sending"]
    board.switch_on()
    took_s = board.wait_for_health()
    when = f"{100 * share:.0f} % and {wait_s:.1f} s, after {steps[-1]!r}"
    tell(f"power cut {cut}, at {when}", f"/health again after {took_s:.0f} s")
    assert user.administer("GET", "/admin/update")["running"] == runs
    check_models(user, board.tls_url)
    assert user.likeness("a small dog", "a puppy") > user.likeness("a small dog", "an annual tax return") + 0.2
    assert "Paris" in user.ask()


def check_models(user: User, device: str) -> None:
    """Every model that the device lists is whole; what the cuts have left is removed."""
    listed = user.lantern("models", "list", "--json", "--device", device)
    assert listed.returncode == 0, listed.stderr
    models = json.loads(listed.stdout)["models"]
    names = {model["name"] for model in models}
    assert {CHAT, EMBEDDING} <= names
    assert not [model for model in models if model["problem"]]
    for name in names - {CHAT, EMBEDDING}:
        assert user.likeness("a dog", "a dog", model=name) > 0.99
        assert user.lantern("models", "remove", name, "--device", device).returncode == 0
