from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from appliance.engine.runtime.provider import session_options
from quantize.graph.edit import Editor, new_input
from quantize.graph.files import save_graph


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 127, 128, 129, 5000])
def test_a_graph_that_was_loaded_from_one_data_file_is_saved_whole_into_another(length: int, tmp_path: Path) -> None:
    graph = ir.Graph([new_input("x", ir.DataType.FLOAT, [length])], [], nodes=[], opset_imports={"": 18}, name="sum")
    edit = Editor(graph)
    large = edit.constant("large", np.arange(9000, dtype=np.float32))
    total = edit.node("ReduceSum", [large], "total", keepdims=0)
    small = edit.constant("small", np.arange(length, dtype=np.float32))
    y = edit.node("Add", [edit.node("Add", [graph.inputs[0], small], "y0"), total], "y")
    y.type, y.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([length])
    graph.outputs.append(y)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "first" / "model.onnx", external_data="model.onnx.data")
    save_graph(ir.load(tmp_path / "first" / "model.onnx"), tmp_path / "second")
    expected = np.arange(length, dtype=np.float32) + np.arange(9000, dtype=np.float32).sum()
    for name in ("first", "second"):
        session = ort.InferenceSession(str(tmp_path / name / "model.onnx"), session_options(1))
        np.testing.assert_allclose(session.run(None, {"x": np.zeros(length, np.float32)})[0], expected, rtol=1e-6)
