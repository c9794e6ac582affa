"""Tables of positions: those of onnxruntime, rounded once; other forms are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from appliance.engine.graphs.position_tables import position_tables

POSITIONS = 5000
FREQUENCIES = (1 / 10_000 ** np.linspace(0, 1, 8)).astype(np.float32)[None]
CONSTANTS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "limit": np.float32(POSITIONS),
    "shape": np.array([-1, 1], np.int64),
    "freq": FREQUENCIES,
    "flat": FREQUENCIES[0],
    "scale": np.float32(1.25),
    "scales": FREQUENCIES,
}


def write(
    path: Path,
    *,
    bounds: tuple[str, str, str] = ("zero", "limit", "one"),
    factors: tuple[str, str] = ("column", "freq"),
    scale: str = "scale",
) -> None:
    """Write a graph of the tables `cos`, `sin` and `scaled`, with an input that is not used."""
    nodes = [
        helper.make_node("Range", bounds, ["steps"]),
        helper.make_node("Reshape", ["steps", "shape"], ["column"]),
        helper.make_node("Mul", factors, ["angles"]),
        helper.make_node("Cos", ["angles"], ["cos"]),
        helper.make_node("Sin", ["angles"], ["sin"]),
        helper.make_node("Mul", ["sin", scale], ["scaled"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("given", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("cos", "sin", "scaled")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())


def test_tables_are_those_of_onnxruntime_rounded_once(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path)
    tables = position_tables(path)
    angles = (np.arange(POSITIONS, dtype=np.float32)[:, None] * FREQUENCIES).astype(np.float64)
    assert np.array_equal(tables["cos"], np.cos(angles).astype(np.float32))
    assert np.array_equal(tables["sin"], np.sin(angles).astype(np.float32))
    assert np.array_equal(tables["scaled"], tables["sin"] * np.float32(1.25))
    feeds = {"given": np.zeros(1, np.float32)}
    for name, expected in zip(tables, ort.InferenceSession(path).run(list(tables), feeds), strict=True):
        assert tables[name].dtype == np.float32
        np.testing.assert_allclose(tables[name], expected, rtol=0, atol=3e-7)


@pytest.mark.parametrize(
    "form",
    [
        {"bounds": ("one", "limit", "one")},
        {"bounds": ("zero", "limit", "scale")},
        {"bounds": ("zero", "given", "one")},
        {"factors": ("steps", "flat")},
        {"factors": ("column", "given")},
        {"factors": ("column", "flat")},
    ],
    ids=str,
)
def test_angles_of_another_form_have_no_table(tmp_path: Path, form: dict[str, tuple[str, ...]]) -> None:
    write(tmp_path / "model.onnx", **form)  # type: ignore[arg-type]
    assert position_tables(tmp_path / "model.onnx") == {}


def test_a_table_that_is_multiplied_by_several_numbers_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "model.onnx", scale="scales")
    assert position_tables(tmp_path / "model.onnx").keys() == {"cos", "sin"}
