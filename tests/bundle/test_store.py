from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.bundle import SigningKey, TrustedKeys, open_bundle
from appliance.errors import BundleError, ConfigError, ConflictError, StorageFullError
from tests.bundle.workshop import Workshop, content_of, install_untried


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_what_was_installed_is_what_was_made(workshop: Workshop) -> None:
    install_untried(workshop.store, workshop.make(b"one"))
    assert workshop.store.names() == ["tiny"]
    assert content_of(workshop.store.open("tiny")) == b"one"


def test_a_new_version_serves_and_the_old_one_comes_back(workshop: Workshop) -> None:
    install_untried(workshop.store, workshop.make(b"one"))
    install_untried(workshop.store, workshop.make(b"two"))
    assert content_of(workshop.store.open("tiny")) == b"two"
    workshop.store.rollback("tiny")
    assert content_of(workshop.store.open("tiny")) == b"one"
    with pytest.raises(BundleError, match="no older version"):
        workshop.store.rollback("tiny")


def test_installing_the_same_bundle_again_changes_nothing(workshop: Workshop) -> None:
    folder = workshop.make()
    first = install_untried(workshop.store, folder)
    assert install_untried(workshop.store, folder).folder == first.folder
    assert len(workshop.store.versions("tiny")) == 1


def test_old_versions_are_pruned_and_the_active_one_is_kept(workshop: Workshop) -> None:
    for content in (b"1", b"2", b"3", b"4"):
        install_untried(workshop.store, workshop.make(content))
    workshop.store.prune("tiny", keep=2)
    assert len(workshop.store.versions("tiny")) == 2
    assert content_of(workshop.store.open("tiny")) == b"4"


def test_a_removed_bundle_is_gone(workshop: Workshop) -> None:
    install_untried(workshop.store, workshop.make())
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
    install_untried(workshop.store, workshop.make(b"good"))
    with workshop.store.stage() as staged:
        for path in workshop.make(b"bad").iterdir():
            path.rename(staged / path.name)
        harm(staged)
        with pytest.raises(BundleError):
            workshop.store.activate(workshop.store.verify(staged))
    assert content_of(workshop.store.open("tiny")) == b"good"
    assert len(workshop.store.versions("tiny")) == 1


def test_a_stranger_s_signature_is_refused(workshop: Workshop) -> None:
    stranger = SigningKey.load_or_create(workshop.root / "stranger.pem")
    with pytest.raises(BundleError, match="not trusted"):
        open_bundle(workshop.make(key=stranger), workshop.trusted)


def test_the_private_key_is_for_its_owner_only(workshop: Workshop) -> None:
    assert (workshop.root / "signing.pem").stat().st_mode & 0o777 == 0o600


def test_a_key_counts_as_soon_as_it_is_trusted_and_no_longer_than_it_is(workshop: Workshop) -> None:
    stranger = workshop.stranger()
    made = workshop.make(key=stranger)
    by_command = TrustedKeys.load(workshop.root / "trusted")
    signer = by_command.add(stranger.public)
    assert install_untried(workshop.store, made).signer == signer
    by_command.remove(signer)
    with pytest.raises(BundleError, match="not trusted"):
        workshop.store.open("tiny")
    with pytest.raises(ConfigError, match="not trusted"):
        by_command.remove("../signing")


def test_a_damaged_file_among_the_trusted_keys_costs_itself_only(workshop: Workshop) -> None:
    (workshop.root / "trusted" / "odd.pub").write_text("not a key")
    assert install_untried(workshop.store, workshop.make()).name == "tiny"


def test_installing_an_older_version_again_makes_it_the_latest(workshop: Workshop) -> None:
    one, two = workshop.make(b"one"), workshop.make(b"two")
    for folder in (one, two, one):
        install_untried(workshop.store, folder)
    assert content_of(workshop.store.rollback("tiny")) == b"two"


def test_one_at_a_time_changes_the_store(workshop: Workshop) -> None:
    with workshop.store.writing(), pytest.raises(ConflictError), workshop.store.writing(wait_s=0.0):
        pass
    with workshop.store.writing(wait_s=0.0):
        pass


def test_too_little_space_is_refused_before_anything_is_written(workshop: Workshop) -> None:
    with pytest.raises(StorageFullError), workshop.store.stage(size_bytes=1 << 60):
        pass
    assert not (workshop.root / "store" / ".staging").exists()


def test_what_an_interrupted_install_left_is_swept(workshop: Workshop) -> None:
    (workshop.root / "store" / ".staging" / "half").mkdir(parents=True)
    workshop.store.sweep()
    assert not (workshop.root / "store" / ".staging").exists()
