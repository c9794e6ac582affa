"""The data file of a built graph: whole weights from slabs, joined and turned, and an error where the disk is full."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from quantize.graph import data_file
from quantize.graph.data_file import DataFile
from quantize.graph.edit import Editor
from quantize.sources.tensors import Tensor, TensorWriter, cuts, read_header

_NAMES = ("q", "k", "v")


def test_weights_that_are_cut_into_slabs_arrive_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_file, "_SLAB_BYTES", 7 * 5 * 4)  # of 7 rows
    arrays, tensors = stored(tmp_path, {"q": (16, 5), "k": (3, 5), "v": (4, 5)})
    graph = ir.Graph([], [], nodes=[], name="g")
    with DataFile(tmp_path, Editor(graph)) as data:
        table = data.table("table", tensors["q"])
        joined = data.product_weight("joined", [tensors[name] for name in _NAMES])
    assert np.array_equal(table.const_value.numpy(), arrays["q"])
    assert np.array_equal(joined.const_value.numpy(), np.concatenate([arrays[name] for name in _NAMES]).T)
    assert (tmp_path / "model.onnx.data").stat().st_size % 4096 == 0


def test_a_large_tile_is_turned_like_a_small_one(tmp_path: Path) -> None:
    arrays, tensors = stored(tmp_path, {"q": (700, 530)})
    with DataFile(tmp_path, Editor(ir.Graph([], [], nodes=[], name="g"))) as data:
        weight = data.product_weight("weight", [tensors["q"]])
    assert np.array_equal(weight.const_value.numpy(), arrays["q"].T)


def test_a_full_disk_is_an_error_and_never_a_short_file(tmp_path: Path, file_limit: int) -> None:
    _, tensors = stored(tmp_path, {"q": (64, 40)})
    data = DataFile(tmp_path, Editor(ir.Graph([], [], nodes=[], name="g")))
    data.table("first", tensors["q"])
    with pytest.raises(OSError, match="too large"):
        data.product_weight("second", [tensors["q"]])
    data.__exit__(OSError, None, None)
    assert (tmp_path / "model.onnx.data").stat().st_size <= file_limit


@pytest.fixture
def file_limit() -> Iterator[int]:
    """Limit every file of this process: a write across the limit is short, and the next one fails."""
    before, limit = resource.getrlimit(resource.RLIMIT_FSIZE), 64 * 40 * 4 + 6000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def stored(
    folder: Path, shapes: dict[str, tuple[int, ...]]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Tensor]]:
    """Write random tensors, and return their values and what is read of them."""
    rng = np.random.default_rng(0)
    arrays = {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in shapes.items()}
    with TensorWriter(folder / "model.safetensors", shapes) as writer:
        for name, array in arrays.items():
            writer.write(name, array)
    return arrays, read_header(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("total", "size", "expected"), [(5, 2, [(0, 2), (2, 4), (4, 5)]), (4, 4, [(0, 4)]), (0, 3, [])]
)
def test_cuts_cover_all_rows(total: int, size: int, expected: list[tuple[int, int]]) -> None:
    assert list(cuts(total, size)) == expected
