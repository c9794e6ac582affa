"""Weights that lie in the bundle as the kernels read them are mapped there: nothing of them is written again."""

from __future__ import annotations

import gc
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from appliance.bundle import Bundle, BundleStore, TrustedKeys
from appliance.engine.graphs.blocks import write_block_products
from appliance.engine.kernels import KernelLibrary
from appliance.engine.runtime import kernel_trial
from appliance.engine.runtime import prepacked as making
from appliance.engine.runtime.kernel_trial import packing
from appliance.engine.runtime.model_file import BLOCKS_DATA_NAME, ModelFile
from appliance.engine.runtime.prepacked import prepacked
from appliance.engine.runtime.preparation import DATA_NAME, optimize
from appliance.errors import ModelError
from appliance.home import Home
from quantize.graph.codec import Bits, round_to_nearest
from tests.engine.graphs.stored_head import write_head

K, N = 96, 64


def forms(folder: Path, library: KernelLibrary, bits: Bits) -> tuple[ModelFile, ModelFile]:
    """Return a model's form for the kernels, made with the bundle's file and without it."""
    stored = round_to_nearest(np.random.default_rng(bits).normal(size=(N, K)).astype(np.float32), bits)
    source = write_head(folder / "bundle", stored, tiled=True)
    (folder / "stock").mkdir()
    optimize(source, folder / "stock" / "model.onnx", DATA_NAME)
    found = []
    for name, bundle in (("mapped", source), ("whole", None)):
        (folder / name).mkdir()
        path = folder / name / "model.onnx"
        write_block_products(folder / "stock" / "model.onnx", path, BLOCKS_DATA_NAME, packing(library), stored=bundle)
        found.append(ModelFile(path, is_optimized=True, kernels=library.path, weights=bundle and bundle.parent))
    return found[0], found[1]


def results(file: ModelFile) -> list[bytes]:
    feeds = {"x": np.random.default_rng(4).normal(size=(5, K)).astype(np.float32), "ids": np.arange(5)}
    return [value.tobytes() for value in file.session(1, spinning=False).run(None, feeds)]


@pytest.mark.parametrize("bits", [4, 5, 6, 8])
def test_the_bundles_own_weights_are_used_and_give_the_same_bits(
    library: KernelLibrary, tmp_path: Path, bits: Bits
) -> None:
    mapped, whole = forms(tmp_path, library, bits)
    assert results(mapped) == results(whole)
    assert mapped.path.with_name(BLOCKS_DATA_NAME).stat().st_size == 0
    assert whole.path.with_name(BLOCKS_DATA_NAME).stat().st_size >= N * K * bits // 8


def test_they_are_mapped_once_for_all_sessions(library: KernelLibrary, tmp_path: Path) -> None:
    mapped, _ = forms(tmp_path, library, 6)
    data = str(tmp_path / "bundle" / "model.onnx.data")

    def mappings() -> int:
        return Path("/proc/self/maps").read_text("utf-8").count(data)

    gc.collect()
    assert mappings() == 0
    sessions = [mapped.session(1, spinning=False) for _ in range(2)]
    assert mappings() == 1
    sessions.clear()
    gc.collect()
    assert mappings() == 0


def test_weights_of_which_one_bit_differs_are_written(library: KernelLibrary, tmp_path: Path) -> None:
    mapped, whole = forms(tmp_path, library, 5)
    data = tmp_path / "bundle" / "model.onnx.data"
    raw = bytearray(data.read_bytes())
    raw[100] ^= 1
    data.write_bytes(raw)
    path = tmp_path / "again.onnx"
    source = data.with_name("model.onnx")
    write_block_products(tmp_path / "stock" / "model.onnx", path, "again.bin", packing(library), stored=source)
    assert path.with_name("again.bin").stat().st_size == whole.path.with_name(BLOCKS_DATA_NAME).stat().st_size
    assert results(mapped) != results(whole)  # a device verifies the file before


def test_weights_in_a_file_of_another_name_are_written(library: KernelLibrary, tmp_path: Path) -> None:
    _, whole = forms(tmp_path, library, 4)
    source = tmp_path / "bundle" / "model.onnx"
    model = onnx.load(source)
    (tmp_path / "renamed").mkdir()
    renamed = tmp_path / "renamed" / "model.onnx"
    onnx.save(model, renamed, save_as_external_data=True, location="other.data", size_threshold=0)
    (tmp_path / "again").mkdir()
    path, stock = tmp_path / "again" / "model.onnx", tmp_path / "stock" / "model.onnx"
    write_block_products(stock, path, BLOCKS_DATA_NAME, packing(library), stored=renamed)
    assert path.with_name(BLOCKS_DATA_NAME).stat().st_size == whole.path.with_name(BLOCKS_DATA_NAME).stat().st_size
    again = ModelFile(path, is_optimized=True, kernels=library.path, weights=renamed.parent)
    assert results(again) == results(whole)


def test_a_file_that_is_cut_is_refused(library: KernelLibrary, tmp_path: Path) -> None:
    mapped, _ = forms(tmp_path, library, 4)
    data = tmp_path / "bundle" / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"not whole in model\.onnx\.data"):
        mapped.session(1, spinning=False)


@pytest.fixture
def starter(starter_home: Home) -> Bundle:
    keys = TrustedKeys.load(starter_home.trusted_keys)
    return BundleStore(starter_home.bundles, keys).open("smollm2-135m-instruct")


@pytest.mark.slow
def test_a_device_needs_little_disk_beside_a_bundle(library: KernelLibrary, starter: Bundle, tmp_path: Path) -> None:
    stock = prepacked(starter, tmp_path, use_device=False, use_kernels=False).path.parent
    version = hashlib.sha256(library.path.read_bytes()).hexdigest()
    folder = tmp_path / starter.name / making._key(starter.digest, version)
    folder.mkdir()
    measured = kernel_trial.write(library, starter.path("model.onnx"), stock, folder)
    replace(measured, for_answers=True, for_prompts=True).write(folder)
    file = prepacked(starter, tmp_path, use_device=False, library=library.path)
    assert file.path.parent == folder
    products = folder / "products.bin"  # of prompts, where this processor reads them faster with int8
    own = sum(path.stat().st_size for path in folder.iterdir() if path != products)
    assert own < 0.1 * sum(path.stat().st_size for path in starter.folder.iterdir())
    assert file.session(1, spinning=False).get_inputs()
