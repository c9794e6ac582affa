"""Bundles that come in pieces: resumed where they stopped, refused before a byte, installed only when right."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from appliance.bundle import BundleStore, TrustedKeys, verify_manifest
from appliance.bundle.folder import describe_bundle
from appliance.bundle.uploads import Upload, Uploads
from appliance.errors import BundleError, StorageFullError, UntrustedSignerError
from appliance.host.partial_file import OffsetError, UploadNotFoundError
from tests.bundle.workshop import Workshop, content_of


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def begin(uploads: Uploads, made: Path) -> Upload:
    return uploads.begin(describe_bundle(made, TrustedKeys.load(made.parent / "trusted")))


def send(upload: Upload, made: Path, *, step: int = 3) -> None:
    for file in upload.files:
        data, offset = (made / file.name).read_bytes(), file.received()
        while offset < file.size_bytes:
            offset = file.append(offset, data[offset : offset + step])


def test_pieces_become_the_bundle_that_was_made(workshop: Workshop) -> None:
    uploads, made = Uploads(workshop.store), workshop.make(b"some weights")
    upload = begin(uploads, made)
    send(upload, made)
    assert upload.missing_bytes == 0
    assert content_of(workshop.store.activate(workshop.store.verify(upload.folder))) == b"some weights"
    assert uploads.all() == []


def test_an_upload_goes_on_where_it_stopped_even_in_another_process(workshop: Workshop) -> None:
    made = workshop.make(b"0123456789")
    first = Uploads(workshop.store)
    upload = begin(first, made)
    upload.file("model.onnx").append(0, b"0123")
    again = Uploads(workshop.store)
    again.sweep()
    resumed = begin(again, made)
    assert resumed.id == upload.id
    assert resumed.file("model.onnx").received() == 4
    send(resumed, made)
    assert content_of(workshop.store.activate(workshop.store.verify(resumed.folder))) == b"0123456789"


@pytest.mark.parametrize(("offset", "data"), [(1, b"x"), (0, b"far too long for it"), (1 << 50, b"")])
def test_a_piece_in_the_wrong_place_is_refused_and_tells_the_right_one(
    workshop: Workshop, offset: int, data: bytes
) -> None:
    uploads, made = Uploads(workshop.store), workshop.make(b"weights")
    upload = begin(uploads, made)
    with pytest.raises(OffsetError) as caught:
        upload.file("model.onnx").append(offset, data)
    assert caught.value.received == 0
    assert upload.file("model.onnx").received() == 0


@pytest.mark.parametrize("name", ["../manifest.json", "manifest.json", "manifest.sig", "", "x", "..", "model.onnx/"])
def test_only_the_files_that_the_manifest_names_can_be_sent(workshop: Workshop, name: str) -> None:
    uploads = Uploads(workshop.store)
    with pytest.raises(UploadNotFoundError):
        begin(uploads, workshop.make()).file(name)


@pytest.mark.parametrize("upload_id", ["", "..", "../store", "0" * 64, "x" * 64, "a" * 63 + "/"])
def test_an_id_that_was_not_given_leads_nowhere(workshop: Workshop, upload_id: str) -> None:
    uploads = Uploads(workshop.store)
    begin(uploads, workshop.make())
    for ask in (uploads.get, uploads.remove):
        with pytest.raises(UploadNotFoundError):
            ask(upload_id)
    assert len(uploads.all()) == 1


def test_a_strangers_bundle_is_refused_before_anything_is_written(workshop: Workshop) -> None:
    with pytest.raises(UntrustedSignerError):
        begin(Uploads(workshop.store), workshop.make(key=workshop.stranger()))
    assert not (workshop.root / "store").exists()


def test_what_does_not_fit_is_refused_before_anything_is_written(workshop: Workshop) -> None:
    made = workshop.make()
    manifest = (made / "manifest.json").read_bytes().replace(b'"size_bytes":7', b'"size_bytes":1099511627776')
    with pytest.raises(StorageFullError, match="1048576 MiB"):
        Uploads(workshop.store).begin(verify_manifest(manifest, workshop.key.sign(manifest), workshop.trusted))
    assert not (workshop.root / "store" / ".uploads").exists()


def test_damaged_content_is_found_and_only_that_is_sent_again(workshop: Workshop) -> None:
    uploads, made = Uploads(workshop.store), workshop.make(b"weights")
    upload = begin(uploads, made)
    send(upload, made)
    (upload.folder / "model.onnx").write_bytes(b"weighty")
    with pytest.raises(BundleError, match="damaged"):
        workshop.store.activate(workshop.store.verify(upload.folder))
    assert uploads.drop_damaged(upload) == ["model.onnx"]
    send(upload, made)
    assert content_of(workshop.store.activate(workshop.store.verify(upload.folder))) == b"weights"


def test_beyond_a_few_the_upload_left_alone_for_longest_gives_way(workshop: Workshop) -> None:
    uploads = Uploads(workshop.store, max_uploads=2)
    ids = [begin(uploads, workshop.make(bytes([i]) * 9)).id for i in range(3)]
    left = {u.id for u in uploads.all()}
    assert left == set(ids[1:])


def test_what_a_kill_left_of_a_beginning_is_swept(workshop: Workshop) -> None:
    uploads, made = Uploads(workshop.store), workshop.make()
    upload = begin(uploads, made)
    half = upload.folder.parent / "tmp-half"
    shutil.copytree(made, half)
    (half / "manifest.sig").unlink()
    uploads.sweep()
    assert [p.name for p in upload.folder.parent.iterdir()] == [upload.id]


class CountingKeys(TrustedKeys):
    """Trusted keys that count the signatures that they verify."""

    num_verified = 0

    def verify(self, message: bytes, signature_file: bytes) -> str:
        self.num_verified += 1
        return super().verify(message, signature_file)


def test_a_manifest_is_verified_once_and_not_with_every_piece(workshop: Workshop) -> None:
    made, keys = workshop.make(b"w" * 100), CountingKeys(workshop.root / "trusted")
    uploads = Uploads(BundleStore(workshop.root / "store", keys))
    upload = uploads.begin(describe_bundle(made, keys))
    for offset in range(100):
        uploads.get(upload.id).file("model.onnx").append(offset, b"w")
    assert keys.num_verified == 1
    again = Uploads(BundleStore(workshop.root / "store", keys))
    assert [again.get(upload.id).missing_bytes for _ in range(9)] == [2] * 9
    assert keys.num_verified == 2


def test_an_upload_whose_key_is_trusted_no_longer_takes_no_further_piece(workshop: Workshop) -> None:
    uploads = Uploads(workshop.store)
    upload = begin(uploads, workshop.make())
    TrustedKeys.load(workshop.root / "trusted").remove(upload.signed.signer)
    with pytest.raises(UntrustedSignerError):
        uploads.get(upload.id)
    assert uploads.all() == []


def test_an_upload_whose_manifest_was_changed_on_the_disk_is_no_upload(workshop: Workshop) -> None:
    upload, other = begin(Uploads(workshop.store), workshop.make()), workshop.make(b"other")
    for name in ("manifest.json", "manifest.sig"):
        shutil.copy(other / name, upload.folder / name)
    with pytest.raises(BundleError, match="another manifest"):
        Uploads(workshop.store).get(upload.id)
