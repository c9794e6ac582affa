from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.bundle import Bundle, BundleStore, EncoderSpec, Manifest, SigningKey, TrustedKeys, open_bundle
from appliance.bundle.manifest import Source
from appliance.bundle.store import describe_files, write_bundle
from appliance.errors import BundleError, StorageFullError


class Workshop:
    """A key, a store that trusts it, and bundles to put in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = SigningKey.load_or_create(root / "signing.pem")
        TrustedKeys.add(root / "trusted", self.key.public)
        self.trusted = TrustedKeys.load(root / "trusted")
        self.store = BundleStore(root / "store", self.trusted)

    def make(self, content: bytes = b"weights", *, name: str = "tiny", key: SigningKey | None = None) -> Path:
        folder = self.root / f"made-{len(list(self.root.iterdir()))}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(content)
        (folder / "tokenizer.json").write_bytes(b"{}")
        manifest = Manifest(
            name=name,
            model=EncoderSpec(architecture="bert", dimensions=4, max_tokens=8),
            files=describe_files(folder, ["model.onnx", "tokenizer.json"]),
            license="MIT",
            source=Source(uri="here"),
        )
        write_bundle(folder, manifest, key or self.key)
        return folder


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def content_of(bundle: Bundle) -> bytes:
    return bundle.path("model.onnx").read_bytes()


def test_what_was_installed_is_what_was_made(workshop: Workshop) -> None:
    workshop.store.add(workshop.make(b"one"))
    assert workshop.store.names() == ["tiny"]
    assert content_of(workshop.store.open("tiny")) == b"one"


def test_a_new_version_serves_and_the_old_one_comes_back(workshop: Workshop) -> None:
    workshop.store.add(workshop.make(b"one"))
    workshop.store.add(workshop.make(b"two"))
    assert content_of(workshop.store.open("tiny")) == b"two"
    workshop.store.rollback("tiny")
    assert content_of(workshop.store.open("tiny")) == b"one"
    with pytest.raises(BundleError, match="no older version"):
        workshop.store.rollback("tiny")


def test_installing_the_same_bundle_again_changes_nothing(workshop: Workshop) -> None:
    folder = workshop.make()
    first = workshop.store.add(folder)
    assert workshop.store.add(folder).folder == first.folder
    assert len(workshop.store.versions("tiny")) == 1


def test_old_versions_are_pruned_and_the_active_one_is_kept(workshop: Workshop) -> None:
    for content in (b"1", b"2", b"3", b"4"):
        workshop.store.add(workshop.make(content))
    workshop.store.prune("tiny", keep=2)
    assert len(workshop.store.versions("tiny")) == 2
    assert content_of(workshop.store.open("tiny")) == b"4"


def test_a_removed_bundle_is_gone(workshop: Workshop) -> None:
    workshop.store.add(workshop.make())
    workshop.store.remove("tiny")
    assert workshop.store.names() == []
    with pytest.raises(BundleError, match="not installed"):
        workshop.store.open("tiny")


def flip(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[0] ^= 1
    (folder / "model.onnx").write_bytes(data)


def shorten(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"w")


def lose(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def add_a_stranger(folder: Path) -> None:
    (folder / "custom_ops.so").write_bytes(b"\x7fELF")


def link_softly(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")


def link_hard(folder: Path) -> None:
    os.link(folder / "model.onnx", folder.parent / "second-name")


def make_a_pipe(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def change_the_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"MIT"', b'"XXX"'))


def spoil_the_signature(folder: Path) -> None:
    (folder / "manifest.sig").write_bytes(b"{}")


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        shorten,
        lose,
        add_a_stranger,
        link_softly,
        link_hard,
        make_a_pipe,
        change_the_manifest,
        spoil_the_signature,
    ],
)
def test_a_harmed_bundle_is_refused_and_the_old_one_serves(workshop: Workshop, harm: Callable[[Path], None]) -> None:
    workshop.store.add(workshop.make(b"good"))
    with workshop.store.stage() as staged:
        for path in workshop.make(b"bad").iterdir():
            path.rename(staged / path.name)
        harm(staged)
        with pytest.raises(BundleError):
            workshop.store.install(staged)
    assert content_of(workshop.store.open("tiny")) == b"good"
    assert len(workshop.store.versions("tiny")) == 1


def test_a_stranger_s_signature_is_refused(workshop: Workshop) -> None:
    stranger = SigningKey.load_or_create(workshop.root / "stranger.pem")
    with pytest.raises(BundleError, match="not trusted"):
        open_bundle(workshop.make(key=stranger), workshop.trusted)


def test_the_private_key_is_for_its_owner_only(workshop: Workshop) -> None:
    assert (workshop.root / "signing.pem").stat().st_mode & 0o777 == 0o600


def test_too_little_space_is_refused_before_anything_is_written(workshop: Workshop) -> None:
    with pytest.raises(StorageFullError), workshop.store.stage(size_bytes=1 << 60):
        pass
    assert list((workshop.root / "store" / ".staging").iterdir()) == []


def test_what_an_interrupted_install_left_is_swept(workshop: Workshop) -> None:
    (workshop.root / "store" / ".staging" / "half").mkdir(parents=True)
    workshop.store.sweep()
    assert not (workshop.root / "store" / ".staging").exists()


_INSTALLER = """
import sys
from pathlib import Path
from appliance.bundle import BundleStore, TrustedKeys
root = Path(sys.argv[1])
store = BundleStore(root / "store", TrustedKeys.load(root / "trusted"))
print("ready", flush=True)
while True:
    for folder in sys.argv[2:]:
        store.add(Path(folder))
        store.prune("tiny", keep=1)
"""


def test_kill_9_at_any_moment_leaves_a_whole_bundle(workshop: Workshop) -> None:
    folders = [workshop.make(os.urandom(200_000)) for _ in range(2)]
    known = {(f / "model.onnx").read_bytes() for f in folders}
    workshop.store.add(folders[0])
    command = [sys.executable, "-c", _INSTALLER, str(workshop.root), *map(str, folders)]
    for i in range(15):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as installer:
            assert installer.stdout is not None
            assert installer.stdout.readline() == "ready\n"
            time.sleep(0.003 * i)  # the moment of the kill is what is tried, not waited for
            installer.send_signal(signal.SIGKILL)
        workshop.store.sweep()
        assert content_of(workshop.store.open("tiny")) in known
