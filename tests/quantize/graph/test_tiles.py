"""Matrices in tiles: the bytes that the kernels pack, and the same products and rows by onnxruntime's operators."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.engine.kernels import KernelLibrary, StoredWeights
from appliance.engine.runtime.model_file import load_bundle_graph
from appliance.engine.runtime.provider import session_options
from quantize.graph.codec import BLOCK, Bits, QuantizedMatrix, round_to_nearest
from quantize.graph.tiles import PARTS, can_be_tiled, tiles_of
from tests.engine.graphs.stored_head import write_head

_BITS: tuple[Bits, ...] = (4, 5, 6, 8)
_CPU = ["CPUExecutionProvider"]


def matrix(bits: Bits, num_outputs: int, num_inputs: int, seed: int) -> QuantizedMatrix:
    random = np.random.default_rng(seed)
    weight = random.normal(size=(num_outputs, num_inputs)) * random.choice([0.0, 1e-4, 1.0, 30.0], (num_outputs, 1))
    return round_to_nearest(weight.astype(np.float32), bits)


def packed_by_kernels(library: KernelLibrary, stored: QuantizedMatrix) -> np.ndarray:
    """Return what the library makes of the matrix as MatMulNBits reads it."""
    if stored.bits == 4:
        codes, scales = stored.packed(), stored.scales
    else:
        up = 8 - stored.bits
        codes = (stored.codes << np.uint8(up)).reshape(stored.num_outputs, -1, BLOCK)
        scales = stored.scales * np.float32(0.5**up)
    weights = StoredWeights(codes, scales, None, stored.num_inputs, 4 if stored.bits == 4 else 8)
    packed = library.pack(weights)
    assert packed.bits == stored.bits
    return packed.memory


def in_file(stored: QuantizedMatrix) -> bytes:
    tiles = tiles_of(stored)
    parts = (tiles.codes.tobytes(), tiles.steps.tobytes(), tiles.units.tobytes())
    return b"".join(part + bytes(-len(part) % 64) for part in parts)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from(_BITS),
    tiles=st.integers(1, 4),
    num_inputs=st.integers(65, 400),
    seed=st.integers(0, 2**32 - 1),
)
def test_tiles_are_what_the_kernels_pack(
    library: KernelLibrary, bits: Bits, tiles: int, num_inputs: int, seed: int
) -> None:
    stored = matrix(bits, tiles * 16, num_inputs, seed)
    assert in_file(stored) == packed_by_kernels(library, stored).tobytes()


@pytest.mark.slow
def test_scales_with_a_smaller_unit_are_packed_as_the_kernels_pack_them(library: KernelLibrary) -> None:
    for bits in _BITS:
        plain = matrix(bits, 32, 256, 3)
        for divisor in (1, 2, 3, 10, 60):
            steps = plain.steps.copy()
            steps[...] = np.random.default_rng(divisor).integers(1, 4, steps.shape) * divisor % 127 + 1
            stored = replace(plain, steps=steps)
            assert in_file(stored) == packed_by_kernels(library, stored).tobytes()


@pytest.mark.parametrize("bits", _BITS)
def test_the_scales_are_the_same_floats(bits: Bits) -> None:
    stored = matrix(bits, 48, 160, 5)
    tiles = tiles_of(stored)
    by_row = tiles.steps.transpose(0, 2, 1).reshape(48, -1)
    assert np.array_equal(by_row.astype(np.float32) * tiles.units, stored.scales)


def test_a_matrix_with_a_tile_that_is_not_whole_or_with_rows_that_are_too_long_stays_as_it_is() -> None:
    assert not can_be_tiled(matrix(4, 24, 64, 0))
    assert can_be_tiled(matrix(4, 16, 512 * BLOCK, 0))
    assert not can_be_tiled(matrix(4, 16, 513 * BLOCK, 0))


@pytest.mark.parametrize("bits", _BITS)
def test_onnxruntime_and_the_device_put_them_in_order(tmp_path: Path, bits: Bits) -> None:
    stored = matrix(bits, 64, 96, 7)
    feeds = {"x": np.random.default_rng(1).normal(size=(5, 96)).astype(np.float32), "ids": np.arange(5)}
    plain = write_head(tmp_path / "plain", stored, tiled=False)
    tiled = write_head(tmp_path / "tiled", stored, tiled=True)
    wanted = load_bundle_graph(plain, plain.parent, session_options(1), _CPU).run(None, feeds)
    folded = ort.InferenceSession(str(tiled), session_options(1), providers=_CPU).run(None, feeds)
    ordered = load_bundle_graph(tiled, tiled.parent, session_options(1), _CPU).run(None, feeds)
    for found in (folded, ordered):
        assert [value.tobytes() for value in found] == [value.tobytes() for value in wanted]


@pytest.mark.parametrize("bits", _BITS)
def test_the_file_holds_what_a_device_maps(tmp_path: Path, bits: Bits) -> None:
    stored = matrix(bits, 48, 96, 9)
    model = write_head(tmp_path / "tiled", stored, tiled=True)
    tensors = ir.load(model).graph.initializers
    first = tensors[f"head{PARTS[0]}"].const_value
    assert isinstance(first, ir.ExternalTensor)
    assert first.offset is not None
    assert first.offset % 64 == 0
    raw = (model.parent / "model.onnx.data").read_bytes()
    assert raw[first.offset :].startswith(in_file(stored))
