"""The operator in onnxruntime: its results, its threads, its packed form, and what it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from appliance.engine.kernels import (
    DOMAIN,
    OPERATOR,
    KernelLibrary,
    KernelLibraryAbsentError,
    KernelLibraryError,
    StoredWeights,
    library_version,
    load_kernels,
)
from tests.engine.kernels.graphs import (
    Constants,
    Format,
    block_of,
    product_model,
    stored_constants,
    unpacked,
    weights_of,
    with_steps,
)

pytestmark = pytest.mark.slow

Floats = NDArray[np.float32]

_BLOCKS = (32, 64, 128)
_FORMATS = [
    *(Format(bits, block, zeros) for bits in (4, 8) for block in _BLOCKS for zeros in (False, True)),
    *(Format(bits, block) for bits in (5, 6) for block in _BLOCKS),
]


def _stored_model(weights: StoredWeights, **changes: int) -> bytes:
    shape = {
        "columns": weights.num_columns,
        "rows": len(weights.codes),
        "bits": weights.bits,
        "block_size": block_of(weights),
    }
    return product_model(DOMAIN, OPERATOR, stored_constants(weights), **(shape | changes))


def _packed_model(library: KernelLibrary, weights: StoredWeights) -> bytes:
    packed = library.pack(weights)
    constants: Constants = {"packed": packed.memory}
    shape = {
        "columns": weights.num_columns,
        "rows": len(weights.codes),
        "bits": packed.bits,
        "block_size": block_of(weights),
    }
    return product_model(DOMAIN, OPERATOR, constants, **shape, packed=1, has_zeros=int(weights.zeros is not None))


def _session(library: KernelLibrary, model: bytes | Path, num_threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 4
    library.register(options)
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _run(session: ort.InferenceSession, x: Floats) -> Floats:
    return np.asarray(session.run(None, {"x": x})[0])


def _activations(*shape: int) -> Floats:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("form", _FORMATS, ids=str)
def test_the_result_is_the_product_but_for_the_rounding_of_activations(library: KernelLibrary, form: Format) -> None:
    weights = weights_of(form, columns=300, rows=70)
    x = _activations(5, 300)
    y = _run(_session(library, _stored_model(weights)), x)
    exact = x.astype(np.float64) @ unpacked(weights).T
    deviation = np.linalg.norm(y - exact) / np.linalg.norm(exact)
    assert 0 < deviation < 0.012  # a code is off by at most half of 1/127 of its block's peak


@pytest.mark.parametrize("form", _FORMATS, ids=str)
def test_packed_weights_give_the_same_bits(library: KernelLibrary, form: Format) -> None:
    weights = weights_of(form, columns=300, rows=70)
    x = _activations(9, 300)
    stored = _run(_session(library, _stored_model(weights)), x)
    packed = _run(_session(library, _packed_model(library, weights)), x)
    assert stored.tobytes() == packed.tobytes()


@pytest.mark.parametrize("num_rows", [1, 7, 200])
def test_threads_change_no_bit(library: KernelLibrary, num_rows: int) -> None:
    model = _stored_model(weights_of(Format(4, 32), columns=576, rows=1537))
    x = _activations(num_rows, 576)
    alone, shared = (_run(_session(library, model, threads), x) for threads in (1, 2))
    assert alone.tobytes() == shared.tobytes()


def test_rows_give_the_same_bits_alone_and_together(library: KernelLibrary) -> None:
    session = _session(library, _stored_model(weights_of(Format(8, 64), columns=192, rows=48)))
    x = _activations(17, 192)
    together = _run(session, x)
    assert b"".join(_run(session, row[None]).tobytes() for row in x) == together.tobytes()


def test_leading_dimensions_are_kept(library: KernelLibrary) -> None:
    session = _session(library, _stored_model(weights_of(Format(4, 32), columns=64, rows=20)))
    assert _run(session, _activations(2, 3, 64)).shape == (2, 3, 20)
    assert _run(session, _activations(0, 64)).shape == (0, 20)


def test_an_infinity_makes_its_own_row_nan_and_no_other(library: KernelLibrary) -> None:
    session = _session(library, _stored_model(weights_of(Format(4, 32), columns=64, rows=20)))
    x = _activations(3, 64)
    x[1, 40] = np.inf
    y = _run(session, x)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[[0, 2]]).all()


def _gather_model(library: KernelLibrary, weights: StoredWeights) -> bytes:
    packed = library.pack(weights)
    shape = {"K": weights.num_columns, "N": len(weights.codes), "bits": packed.bits, "block_size": block_of(weights)}
    node = onnx.helper.make_node(
        "GatherBlocks", ["packed", "x"], ["y"], domain=DOMAIN, **shape, has_zeros=int(weights.zeros is not None)
    )
    graph = onnx.helper.make_graph(
        [node],
        "rows",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.INT64, None)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(packed.memory, "packed")],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


@pytest.mark.parametrize("form", _FORMATS, ids=str)
def test_rows_of_packed_weights_are_the_weights(library: KernelLibrary, form: Format) -> None:
    weights = weights_of(form, columns=300, rows=70)
    session = _session(library, _gather_model(library, weights))
    rows = np.array([[0, 69, 16], [-1, -70, 15]], np.int64)
    [found] = session.run(None, {"x": rows})
    expected = unpacked(weights).astype(np.float32)[rows]  # exact in double, so that it is rounded once
    assert np.asarray(found).tobytes() == expected.tobytes()
    assert session.run(None, {"x": np.empty((0, 4), np.int64)})[0].shape == (0, 4, 300)
    for row in (70, -71, 1 << 40):
        with pytest.raises(Exception, match="an index of a row is"):
            session.run(None, {"x": np.array([row])})


def test_packed_weights_are_mapped_from_a_file_of_their_own(library: KernelLibrary, tmp_path: Path) -> None:
    weights = weights_of(Format(4, 32), columns=2048, rows=1024)
    model = onnx.load_from_string(_packed_model(library, weights))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    x = _activations(3, 2048)
    assert _run(_session(library, path), x).tobytes() == _run(_session(library, _stored_model(weights)), x).tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 5}, "bits is 5"),  # of packed weights alone
        ({"bits": 7, "packed": 1}, "bits is 7"),
        ({"block_size": 16}, "block_size is 16"),
        ({"columns": 0}, "K is 0"),
        ({"columns": 128}, "codes is"),
    ],
)
def test_a_format_without_a_kernel_is_refused_at_load(
    library: KernelLibrary, changes: dict[str, int], message: str
) -> None:
    model = _stored_model(weights_of(Format(4, 32), columns=64, rows=20), **changes)
    with pytest.raises(Exception, match=message):
        _session(library, model)


def test_weights_with_a_scale_that_is_not_finite_are_refused(library: KernelLibrary) -> None:
    weights = weights_of(Format(4, 32), columns=64, rows=20)
    weights.scales[3, 1] = np.nan
    with pytest.raises(Exception, match="a scale is not finite"):
        _session(library, _stored_model(weights))
    with pytest.raises(KernelLibraryError, match="not finite"):
        library.pack(weights)


@pytest.mark.parametrize("form", _FORMATS, ids=str)
def test_scales_that_are_steps_of_a_unit_take_a_byte_and_give_the_same_bits(
    library: KernelLibrary, form: Format
) -> None:
    columns, rows = 6 * form.block + 5, 64
    stepped = with_steps(weights_of(form, columns, rows), form)
    beside = weights_of(form, columns, rows + 1)  # one row whose scales are no steps: floats for all rows
    beside.codes[:rows], beside.scales[:rows] = stepped.codes, stepped.scales
    if stepped.zeros is not None and beside.zeros is not None:
        beside.zeros[:rows] = stepped.zeros
    x = _activations(3, columns)
    found, wanted = (_run(_session(library, _packed_model(library, w)), x) for w in (stepped, beside))
    assert np.array_equal(found, wanted[..., :rows])
    num_scales = rows * stepped.scales.shape[1]
    floats = weights_of(form, columns, rows)
    sizes = [len(library.pack(w).memory) for w in (floats, stepped)]
    assert sizes[0] - sizes[1] == pytest.approx(3 * num_scales - 4 * rows, abs=64)


@pytest.mark.parametrize("form", _FORMATS, ids=str)
def test_codes_are_packed_in_the_fewest_bits_that_hold_them(library: KernelLibrary, form: Format) -> None:
    packed = library.pack(with_steps(weights_of(form, columns=1024, rows=64), form))
    assert packed.bits == form.bits
    extra = 1024 // form.block * (2 if form.has_zeros else 1)  # steps, and zero points
    assert len(packed.memory) == pytest.approx(64 * (1024 * form.bits // 8 + extra), abs=512)


def test_one_code_with_a_lower_bit_keeps_all_of_them_at_eight(library: KernelLibrary) -> None:
    weights = weights_of(Format(5, 32), columns=64, rows=20)
    assert library.pack(weights).bits == 5
    weights.codes[3, 1, 7] |= 4
    assert library.pack(weights).bits == 6
    weights.codes[19, 0, 0] |= 1
    assert library.pack(weights).bits == 8


def test_codes_with_zero_points_and_very_long_rows_stay_at_eight_bits(library: KernelLibrary) -> None:
    weights = weights_of(Format(5, 32), columns=64, rows=20)
    zeros = np.full((20, 2), 128, np.uint8)
    assert library.pack(StoredWeights(weights.codes, weights.scales, zeros, 64, 8)).bits == 8
    assert library.pack(weights_of(Format(5, 32), columns=(1 << 15) + 1, rows=1)).bits == 8


def test_activations_of_another_width_are_refused(library: KernelLibrary) -> None:
    session = _session(library, _stored_model(weights_of(Format(4, 32), columns=64, rows=20)))
    with pytest.raises(Exception, match="last dimension is 63"):
        _run(session, _activations(1, 63))


def test_weights_that_contradict_their_shape_are_not_packed(library: KernelLibrary) -> None:
    weights = weights_of(Format(4, 32), columns=64, rows=20)
    short = StoredWeights(weights.codes, weights.scales[:, :1], None, 64, 4)
    with pytest.raises(KernelLibraryError, match="do not fit"):
        library.pack(short)


def test_the_library_says_which_family_it_takes(library: KernelLibrary) -> None:
    assert library.family in {"neon", "dotprod", "i8mm", "avx2", "avxvnni", "avx512vnni", "portable"}


def _signed(path: Path, content: bytes) -> Path:
    """Write a library with the hash that `make kernels` writes beside it."""
    path.write_bytes(content)
    path.with_name(f"{path.name}.sha256").write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n", "ascii")
    return path


def test_a_missing_library_and_one_that_does_not_load_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(KernelLibraryAbsentError, match="make kernels"):
        load_kernels(tmp_path / "absent.so")
    with pytest.raises(KernelLibraryError, match="does not load"):
        load_kernels(_signed(tmp_path / "broken.so", b"\x7fELF of another processor"))


def test_a_library_that_was_changed_since_it_was_built_is_not_loaded(library: KernelLibrary, tmp_path: Path) -> None:
    content = library.path.read_bytes()
    path = _signed(tmp_path / "changed.so", content)
    assert load_kernels(path).family == library.family
    path.unlink()  # it is mapped: bytes that are changed in place would end this process when it exits
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(KernelLibraryError, match="was changed"):
        load_kernels(path)
    path.with_name("changed.so.sha256").unlink()
    with pytest.raises(KernelLibraryError, match="cannot be verified"):
        load_kernels(path)


def test_the_version_of_a_library_is_told_without_loading_it(tmp_path: Path) -> None:
    content = b"no library at all"
    assert library_version(_signed(tmp_path / "some.so", content)) == hashlib.sha256(content).hexdigest()
