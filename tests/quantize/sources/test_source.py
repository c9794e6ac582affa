"""Sources are named without any path of this machine, hashed, and refused in one sentence."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from appliance.errors import QuantizeError
from quantize.recipe import SourcePart
from quantize.sources.gguf_file import dequantize
from quantize.sources.source import hash_folder, resolve
from quantize.sources.wheels import unzip


def test_a_folder_is_named_by_its_last_part_and_hashed_by_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    source = resolve(SourcePart(uri=str(folder)), tmp_path)
    assert source.uri == "folder:model"
    before = source.sha256
    (folder / ".cache").write_text("not part of it")
    assert hash_folder(folder) == before
    (folder / "config.json").write_text("{ }")
    assert hash_folder(folder) != before


def test_a_gguf_file_is_named_by_its_file_name(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    source = resolve(SourcePart(uri=str(path)), tmp_path)
    assert (source.uri, source.is_gguf) == ("file:tiny.gguf", True)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\x03\0\0\0" + b"\xff" * 40, b"PK\x03\x04 something"])
def test_a_damaged_gguf_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(content)
    with pytest.raises(QuantizeError, match=r"^tiny\.gguf .*") as raised:
        dequantize(path, tmp_path / "out")
    assert "\n" not in raised.value.message


@pytest.mark.parametrize("uri", ["pypi:name", "pypi:==1", "pypi:name==1; x", "nothing here", "a/b/c"])
def test_what_is_no_source_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(QuantizeError, match=r"NAME==VERSION"):
        resolve(SourcePart(uri=uri), tmp_path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(QuantizeError, match="folder"):
        resolve(SourcePart(uri=str(path)), tmp_path)


def test_a_cached_wheel_is_used_and_held_against_the_pin(tmp_path: Path) -> None:
    tree = tmp_path / "tiny-1.0" / "tree" / "tiny"
    tree.mkdir(parents=True)
    (tree / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "tiny-1.0" / "wheel.sha256").write_text("0" * 64 + "\n")
    assert resolve(SourcePart(uri="pypi:tiny==1.0"), tmp_path).path == tree / "model.gguf"
    with pytest.raises(QuantizeError, match="the recipe pins 1111"):
        resolve(SourcePart(uri="pypi:tiny==1.0", sha256="1" * 64), tmp_path)


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as file:
        file.writestr("../outside", "x")
    with pytest.raises(QuantizeError, match="points outside"):
        unzip(tmp_path / "bad.whl", tmp_path / "tree")
    assert not (tmp_path / "outside").exists()


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.whl").write_bytes(b"PK\x03\x04 half")
    with pytest.raises(QuantizeError, match="damaged"):
        unzip(tmp_path / "bad.whl", tmp_path / "tree")
