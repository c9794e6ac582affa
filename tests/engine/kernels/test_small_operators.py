"""The operators beside the products: gated units, convolutions with state and norms, beside onnxruntime's own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from appliance.engine.kernels import DOMAIN, KernelLibrary

pytestmark = pytest.mark.slow

Floats = NDArray[np.float32]
CHANNELS = 6145  # several tasks, the last of which has a chunk of one channel


def session_of(
    library: KernelLibrary,
    node: str,
    inputs: list[str],
    outputs: list[str],
    constants: dict[str, Floats],
    num_threads: int = 1,
    **attributes: Any,
) -> ort.InferenceSession:
    """Load a graph of one node."""
    domain = "com.microsoft" if node == "CausalConvWithState" else DOMAIN
    graph = helper.make_graph(
        [helper.make_node(node, inputs, outputs, domain=domain, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in inputs
            if name and name not in constants
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(domain, 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = num_threads, 4
    library.register(options)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, **feeds: Floats) -> list[Floats]:
    return [np.asarray(value, np.float32) for value in session.run(None, feeds)]


def randoms(*shape: int, seed: int = 2) -> Floats:
    return np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)


def unit(library: KernelLibrary, num_threads: int = 1) -> ort.InferenceSession:
    return session_of(library, "GatedUnit", ["x"], ["y"], {}, num_threads)


def constants_of(*, with_bias: bool) -> dict[str, Floats]:
    kernel = randoms(CHANNELS, 1, 4, seed=7)
    return {"kernel": kernel, "bias": randoms(CHANNELS, seed=8)} if with_bias else {"kernel": kernel}


def convolution(
    library: KernelLibrary, num_threads: int = 1, *, silu: int = 1, with_bias: bool = True
) -> ort.InferenceSession:
    inputs = ["x", "kernel", "past", *(["bias"] if with_bias else [])]
    constants = constants_of(with_bias=with_bias)
    return session_of(library, "CausalConvRows", inputs, ["y", "present"], constants, num_threads, silu=silu)


@pytest.mark.parametrize("shape", [(1, 2), (1, 1, 3072), (3, 5, 130), (300, 6144)])
def test_a_gated_unit_is_silu_of_one_half_times_the_other(library: KernelLibrary, shape: tuple[int, ...]) -> None:
    x = randoms(*shape)
    gate, value = np.split(x.astype(np.float64), 2, axis=-1)
    (y,) = run(unit(library), x=x)
    np.testing.assert_allclose(y, gate / (1 + np.exp(-gate)) * value, rtol=2e-6, atol=1e-12)
    assert np.array_equal(y, run(unit(library, 2), x=x)[0])


def test_large_gates_neither_overflow_nor_hide_what_is_no_number(library: KernelLibrary) -> None:
    gates = np.array([-np.inf, -3e38, -1000, -88.5, 0, 88.5, 1000, 3e38, np.inf, np.nan], np.float32)
    (y,) = run(unit(library), x=np.concatenate([gates, np.ones_like(gates)])[None])
    assert np.all(np.abs(y[0, :5]) < 1e-30)
    assert np.array_equal(y[0, 4:9], np.maximum(gates[4:9], 0))
    assert np.isnan(y[0, -1])


def test_a_gated_unit_has_the_same_bits_alone_and_among_others(library: KernelLibrary) -> None:
    x = randoms(70, 2 * 1537)
    (together,) = run(unit(library, 2), x=x)
    assert np.array_equal(together, np.concatenate([run(unit(library), x=row[None])[0] for row in x]))


def test_an_odd_row_has_no_halves(library: KernelLibrary) -> None:
    with pytest.raises(Exception, match="the last dimension of gates and values is 5"):
        run(unit(library), x=randoms(1, 5))


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 37])
def test_a_convolution_is_that_of_onnxruntime(
    library: KernelLibrary, activation: str, with_bias: bool, num_tokens: int
) -> None:
    x, past = randoms(2, num_tokens, CHANNELS), randoms(2, CHANNELS, 3, seed=3)
    ours = convolution(library, silu=int(activation == "silu"), with_bias=with_bias)
    y, present = run(ours, x=x, past=past)
    inputs = ["x", "kernel", "bias" if with_bias else "", "past"]
    constants = constants_of(with_bias=with_bias)
    stock = session_of(library, "CausalConvWithState", inputs, ["y", "present"], constants, activation=activation)
    columns, after = run(stock, x=np.ascontiguousarray(x.transpose(0, 2, 1)), past=past)
    np.testing.assert_allclose(y, columns.transpose(0, 2, 1), rtol=1e-5, atol=1e-4)
    assert np.array_equal(present, after)


def test_tokens_at_once_and_rows_together_have_the_bits_of_single_steps(library: KernelLibrary) -> None:
    x, past = randoms(3, 9, CHANNELS), randoms(3, CHANNELS, 3, seed=3)
    y, present = run(convolution(library, 2), x=x, past=past)
    for row in range(3):
        state = past[row : row + 1]
        for begin, end in pairwise([0, 1, 2, 5, 9]):
            step, state = run(convolution(library), x=x[row : row + 1, begin:end], past=state)
            assert np.array_equal(step[0], y[row, begin:end])
        assert np.array_equal(state[0], present[row])


def test_the_state_may_be_written_where_it_was_read(library: KernelLibrary) -> None:
    session, x, state = convolution(library, 2), randoms(1, 2, CHANNELS), randoms(1, CHANNELS, 3, seed=3)
    y, present = run(session, x=x, past=state)
    value = ort.OrtValue.ortvalue_from_numpy(state)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_ortvalue_input("past", value)
    binding.bind_output("y")
    binding.bind_ortvalue_output("present", value)
    session.run_with_iobinding(binding)
    assert np.array_equal(binding.copy_outputs_to_cpu()[0], y)
    assert np.array_equal(value.numpy(), present)


@pytest.mark.parametrize(
    ("x", "past", "message"),
    [((1, 1, 5), (1, CHANNELS, 3), "number of channels"), ((2, 1, CHANNELS), (1, CHANNELS, 3), "floats of a state")],
)
def test_other_shapes_are_refused(
    library: KernelLibrary, x: tuple[int, ...], past: tuple[int, ...], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        run(convolution(library), x=randoms(*x), past=randoms(*past))


def test_a_kernel_of_too_many_columns_is_refused(library: KernelLibrary) -> None:
    with pytest.raises(Exception, match="number of columns of a convolution is 9"):
        session_of(library, "CausalConvRows", ["x", "kernel", "past"], ["y", "present"], {"kernel": randoms(8, 1, 9)})


@pytest.mark.parametrize("shape", [(1, 1, 576), (3, 5, 13), (1, 7, 9, 64), (600, 1537)], ids=str)
def test_a_norm_is_that_of_onnxruntime_with_the_same_bits_alone(library: KernelLibrary, shape: tuple[int, ...]) -> None:
    x, skip, scale = randoms(*shape), randoms(*shape, seed=3), randoms(shape[-1], seed=4)
    ours = session_of(library, "RMSNorm", ["x", "scale"], ["y"], {}, 2, epsilon=1e-5)
    (y,) = run(ours, x=x, scale=scale)
    exact = x.astype(np.float64)
    exact *= scale / np.sqrt((exact**2).mean(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, exact, rtol=2e-6, atol=1e-12)
    last = run(ours, x=x[-1:], scale=scale)[0]
    assert np.array_equal(last, y[-1:])

    names = ["x", "scale", "skip"]
    both = session_of(library, "SkipRMSNorm", names, ["y", "sum"], {}, 2, epsilon=1e-5)
    y, added = run(both, x=x, scale=scale, skip=skip)
    assert np.array_equal(added, x + skip)
    assert np.array_equal(y, run(ours, x=added, scale=scale)[0])
    alone = session_of(library, "SkipRMSNorm", names, ["y"], {}, epsilon=1e-5)
    assert np.array_equal(run(alone, x=x, scale=scale, skip=skip)[0], y)


def test_a_norm_of_other_sizes_is_refused(library: KernelLibrary) -> None:
    with pytest.raises(Exception, match="number of scales of a norm is 5"):
        run(session_of(library, "RMSNorm", ["x", "scale"], ["y"], {}, epsilon=1e-5), x=randoms(1, 8), scale=randoms(5))
    session = session_of(library, "SkipRMSNorm", ["x", "scale", "skip"], ["y"], {}, epsilon=1e-5)
    with pytest.raises(Exception, match="to add before a norm is 4"):
        run(session, x=randoms(1, 8), scale=randoms(8), skip=randoms(1, 4))
