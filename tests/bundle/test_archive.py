"""A bundle as one file: it comes out as it went in, and a hostile archive leaves nothing behind."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.bundle.archive import BundleArchive
from appliance.errors import BundleError
from tests.bundle.workshop import Workshop, content_of, install_untried, snapshot


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def install(workshop: Workshop, data: bytes) -> bytes:
    """As the command does: look at everything, then write, verify and install."""
    archive = BundleArchive(io.BytesIO(data))
    signed = archive.manifest(workshop.trusted)
    with workshop.store.stage(signed.manifest.size_bytes) as staged:
        archive.extract(staged)
        return content_of(workshop.store.activate(workshop.store.verify(staged)))


def test_a_packed_bundle_installs_as_it_was_made(workshop: Workshop) -> None:
    made = workshop.make(b"w" * 100_000)
    packed = workshop.pack(made).read_bytes()
    assert install(workshop, packed) == b"w" * 100_000
    assert workshop.pack(made).read_bytes() == packed


def test_an_archive_of_an_ordinary_tar_is_read_too(workshop: Workshop) -> None:
    made, buffer = workshop.make(b"weights"), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(made, arcname=".")
    assert install(workshop, buffer.getvalue()) == b"weights"


def with_member(change: Callable[[tarfile.TarInfo], bytes]) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo("extra")
        data = change(info)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))

    return add


def named(name: str) -> Callable[[tarfile.TarFile], None]:
    def change(info: tarfile.TarInfo) -> bytes:
        info.name = name
        return b"boo"

    return with_member(change)


def of_kind(kind: bytes, *, name: str = "extra", link: str = "") -> Callable[[tarfile.TarFile], None]:
    def change(info: tarfile.TarInfo) -> bytes:
        info.name, info.type, info.linkname = name, kind, link
        return b""

    return with_member(change)


HOSTILE = {
    "up": named("../outside"),
    "absolute": named("/tmp/outside"),
    "in a folder": named("folder/file"),
    "hidden": named(".active"),
    "twice": named("model.onnx"),
    "not in the manifest": named("custom_ops.so"),
    "long name": named("x" * 300),
    "unicode": named("mödel.onnx"),
    "nul": named("a\0b"),
    "symlink": of_kind(tarfile.SYMTYPE, link="/etc/passwd"),
    "symlink over a file": of_kind(tarfile.SYMTYPE, name="tokenizer.json", link="/etc/passwd"),
    "hard link": of_kind(tarfile.LNKTYPE, link="model.onnx"),
    "hard link out": of_kind(tarfile.LNKTYPE, link="../../signing.pem"),
    "pipe": of_kind(tarfile.FIFOTYPE),
    "device": of_kind(tarfile.CHRTYPE),
    "folder": of_kind(tarfile.DIRTYPE, name="active"),
    "sparse": of_kind(tarfile.GNUTYPE_SPARSE),
    "contiguous": of_kind(tarfile.CONTTYPE),
    "unknown": of_kind(b"Z"),
}


@pytest.mark.parametrize("harm", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("is_first", [True, False])
def test_a_hostile_member_is_refused_and_the_store_is_as_it_was(
    workshop: Workshop, harm: Callable[[tarfile.TarFile], None], is_first: bool
) -> None:
    install_untried(workshop.store, workshop.make(b"good"))
    made, buffer, before = workshop.make(b"bad"), io.BytesIO(), snapshot(workshop.root / "store")
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        if is_first:
            harm(archive)
        for path in made.iterdir():
            archive.add(path, arcname=path.name)
        if not is_first:
            harm(archive)
    with pytest.raises(BundleError):
        install(workshop, buffer.getvalue())
    assert snapshot(workshop.root / "store") == before
    assert not list(workshop.root.rglob("outside"))


def compressed(packed: bytes) -> bytes:
    return gzip.compress(packed)


def zipped(packed: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.onnx", packed)
    return buffer.getvalue()


def claims_terabytes(packed: bytes) -> bytes:
    header = bytearray(packed[:512])
    header[124:136] = b"\x80" + (1 << 60).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + packed[512:]


def negative(packed: bytes) -> bytes:
    header = bytearray(packed[:512])
    header[124:136] = b"\xff" * 12
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + packed[512:]


def many_members(_: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for i in range(5000):
            archive.addfile(tarfile.TarInfo(f"f{i}"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "harm",
    [
        compressed,
        zipped,
        claims_terabytes,
        negative,
        many_members,
        lambda p: p[:700],
        lambda p: p[: p.rindex(b"www")],
        lambda p: b"",
        lambda p: b"\0" * 10_240,
        lambda p: p[1:],
    ],
)
def test_what_is_no_such_archive_is_refused(workshop: Workshop, harm: Callable[[bytes], bytes]) -> None:
    packed = workshop.pack(workshop.make(b"w" * 3000)).read_bytes()
    with pytest.raises(BundleError):
        install(workshop, harm(packed))
    assert workshop.store.names() == []


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_flipped_bytes_are_refused_or_do_not_matter(workshop: Workshop, data: st.DataObject) -> None:
    made = workshop.root / "packed.lantern"
    if not made.exists():
        made.write_bytes(workshop.pack(workshop.make(b"weights")).read_bytes())
    packed = bytearray(made.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        content = install(workshop, bytes(packed))
    except BundleError:
        return
    assert content == b"weights"


def test_a_strangers_archive_is_refused_before_its_files_are_written(workshop: Workshop) -> None:
    packed = workshop.pack(workshop.make(key=workshop.stranger())).read_bytes()
    with pytest.raises(BundleError, match="not trusted"):
        install(workshop, packed)
    assert not (workshop.root / "store").exists()
