"""Fits over many processes give the bytes of one, and whatever happens to a worker is one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import psutil
import pytest

from appliance.bundle import DecoderSpec
from appliance.engine.runtime.provider import session_options
from appliance.errors import QuantizeError
from quantize.evaluation.segments import feeds_of, segments_of
from quantize.fusion.export import DECODER_TASK, export
from quantize.fusion.fuse import fuse_file
from quantize.precision.fit import Product, choose_num_workers, fit_matrices, groups_of
from quantize.precision.fitted import load_errors
from quantize.precision.matrices import matrices_of
from quantize.precision.moments import second_moments
from quantize.precision.segments import run_segments
from quantize.precision.workers import Workers
from quantize.progress import SILENT
from quantize.sources.decoder_config import read_decoder_config
from tests.quantize.tiny import VOCAB, tiny_spec, write_decoder

pytestmark = pytest.mark.slow

_RNG = np.random.default_rng(5)
_WINDOWS = _RNG.integers(3, VOCAB, (6, 48))
_SETUP = {"factor": 3}
_MODULE = "tests.quantize.precision.tripling"


@pytest.fixture(scope="module", params=["llama", "gemma3_text"])
def fused(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DecoderSpec]:
    root = tmp_path_factory.mktemp("fused")
    checkpoint = write_decoder(root / "checkpoint", request.param)
    config = read_decoder_config(checkpoint)
    (root / "fused").mkdir()
    export(checkpoint, root / "exported", task=DECODER_TASK)
    fuse_file(root / "exported", root / "fused", config, context_length=64)
    spec = tiny_spec(config)
    return root / "fused", spec


def test_any_number_of_workers_gives_the_same_bytes(fused: tuple[Path, DecoderSpec], tmp_path: Path) -> None:
    found = []
    for num_workers in (0, 1, 3):
        folder = tmp_path / str(num_workers)
        folder.mkdir()
        fit_matrices(fused[0], folder, (4, 8), _WINDOWS, fused[1], SILENT, num_workers=num_workers)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(found[0]) > 8
    assert found[0] == found[1] == found[2]


def test_a_scheme_that_is_decided_fits_each_matrix_in_the_widths_that_it_will_have(
    fused: tuple[Path, DecoderSpec], tmp_path: Path
) -> None:
    for name, int8 in (("every", None), ("decided", ["*/k_proj", "layers.1/mlp/*"])):
        (tmp_path / name).mkdir()
        fit_matrices(
            fused[0], tmp_path / name, (4, 8), _WINDOWS, fused[1], SILENT, patterns=None if int8 is None else {8: int8}
        )
    every, decided = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.npz")} for name in ("every", "decided")
    )
    assert decided.items() < every.items()
    left_out = sorted(set(every) - set(decided))
    matrices = [m for m in matrices_of(ir.load(fused[0] / "model.onnx").graph) if not m.is_head]
    wide = [m.name for m in matrices if m.name.startswith("layers.1/mlp/")]  # whole in int8
    joined = [m.name for m in matrices if "qkv" in m.name]  # in both
    narrow = [m.name for m in matrices if m.name not in {*wide, *joined}]
    expected = [f"{name}.int4.npz" for name in wide] + [f"{name}.int8.npz" for name in narrow]
    assert left_out == sorted(name.replace("/", ".") for name in expected)


def test_a_disk_that_is_full_stops_all_workers(fused: tuple[Path, DecoderSpec], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = _WINDOWS.size * 4 * max(m.num_inputs for m in matrices_of(ir.load(fused[0] / "model.onnx").graph))
    resource.setrlimit(resource.RLIMIT_FSIZE, (rows, hard))
    try:
        with pytest.raises(OSError, match="too large") as raised:
            fit_matrices(fused[0], tmp_path, (4, 8), np.tile(_WINDOWS, (2, 1)), fused[1], SILENT, num_workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == errno.EFBIG
    assert not psutil.Process().children()


def test_a_killed_worker_stops_the_fit_and_the_next_one_is_whole(
    fused: tuple[Path, DecoderSpec], tmp_path: Path
) -> None:
    def kill_one() -> None:
        while not (children := psutil.Process().children()):
            os.sched_yield()
        children[0].kill()

    (tmp_path / "fit").mkdir()
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_one)
        with pytest.raises(QuantizeError, match="a worker of fit was ended by SIGKILL"):
            fit_matrices(fused[0], tmp_path / "fit", (4,), _WINDOWS, fused[1], SILENT, num_workers=2)
        killing.result()
    assert not psutil.Process().children()
    assert not (tmp_path / "fit" / "errors.json").exists()
    fit_matrices(fused[0], tmp_path / "fit", (4,), _WINDOWS, fused[1], SILENT, num_workers=2)
    assert load_errors(tmp_path / "fit")


def test_segments_give_the_values_of_the_whole_graph(fused: tuple[Path, DecoderSpec], tmp_path: Path) -> None:
    folder, _ = fused
    graph = ir.load(folder / "model.onnx").graph
    names = list(dict.fromkeys(m.input_name for m in matrices_of(graph) if not m.is_head))
    groups = [names[:3], names[3:5], names[5:]]
    feeds = feeds_of(folder, list(_WINDOWS))
    told: list[float] = []
    found: dict[str, np.ndarray] = {}
    for files in run_segments(folder, segments_of(folder, groups), feeds, tmp_path, type(SILENT)(told.append)):
        found |= {name: np.fromfile(path, np.float32) for name, path in files.items()}
    assert told == sorted(told)
    assert told[-1] == 1
    wanted = whole_values(folder, names, feeds)
    assert list(found) == names
    for name in names:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4)


def test_moments_are_sums_of_outer_products() -> None:
    rows = _RNG.standard_normal((3000, 700)).astype(np.float32)
    found = second_moments(rows)
    np.testing.assert_allclose(found, rows.T.astype(np.float64) @ rows, rtol=1e-3, atol=0.05)
    assert np.array_equal(found, found.T)


def test_workers_share_the_tasks_and_return_every_result() -> None:
    with Workers(_MODULE, _SETUP, 2, "tripling") as workers:
        for number in range(9):
            workers.submit({"number": number})
        found = sorted(workers.next_result()["number"] for _ in range(9))
        assert workers.num_pending == 0
    assert found == [3 * number for number in range(9)]


def test_a_worker_computes_on_one_thread_and_keeps_its_replies_whole() -> None:
    with Workers(_MODULE, _SETUP, 1, "tripling") as workers:
        workers.submit({"ask": "threads"})
        assert workers.next_result() == {"threads": 1}


def test_a_worker_that_is_killed_is_one_sentence() -> None:
    with Workers(_MODULE, _SETUP, 2, "fit") as workers:
        workers.submit({"ask": "die"})
        with pytest.raises(QuantizeError, match="fit was ended by SIGKILL, as when memory is short"):
            workers.next_result()
    assert not psutil.Process().children()


def test_a_worker_that_fails_tells_its_last_line() -> None:
    with Workers(_MODULE, _SETUP, 1, "fit") as workers:
        workers.submit({"number": "three"})
        with pytest.raises(QuantizeError, match="a worker of fit ended with code 1: TypeError"):
            workers.next_result()


def test_a_refusal_comes_through_as_it_is() -> None:
    with Workers(_MODULE, _SETUP, 1, "fit") as workers:
        workers.submit({"ask": "refuse"})
        with pytest.raises(QuantizeError, match=r"^the weights are damaged$"):
            workers.next_result()


def test_leaving_ends_workers_in_the_middle_of_a_task() -> None:
    with contextlib.suppress(KeyboardInterrupt), Workers(_MODULE, _SETUP, 2, "fit") as workers:
        workers.submit({"ask": "hang"})
        assert len(psutil.Process().children()) == 2
        raise KeyboardInterrupt
    assert not psutil.Process().children()


def test_workers_end_when_their_parent_is_killed() -> None:
    program = f"""
import os, psutil
from quantize.precision.segments import run_segments
from quantize.precision.workers import Workers
with Workers({_MODULE!r}, {_SETUP!r}, 2, "fit") as workers:
    workers.submit({{"number": 1}})
    workers.next_result()
    print(*[child.pid for child in psutil.Process().children()], flush=True)
    os.read(0, 1)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert len(children) == 2
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_memory_and_cores_bound_the_number_of_workers() -> None:
    products = [Product("narrow", 900, 10**6), Product("wide", 4900, 4 * 10**6)]
    needed = max(product.memory_bytes for product in products)
    assert choose_num_workers(products, 12_000, 2, needed) == 1
    assert choose_num_workers(products, 12_000, 2, 100 * needed) == min(2, len(os.sched_getaffinity(0)))
    with pytest.raises(QuantizeError, match=r"fit needs \d\.\d GB of memory .* 0\.5 GB are free"):
        choose_num_workers(products, 12_000, 2, 5 * 10**8)
    assert choose_num_workers([Product("tiny", 64, 4096)], 1000, 2, 0) == 0


def test_groups_keep_their_rows_within_a_size() -> None:
    products = [Product(str(width), width, 1) for width in (1000, 1000, 5000, 1000, 1000, 30000, 10)]
    groups = groups_of(products, 10_000)
    assert [product for group in groups for product in group] == products
    assert [[product.width for product in group] for group in groups] == [
        [1000, 1000],
        [5000, 1000],
        [1000],
        [30000],
        [10],
    ]


def whole_values(folder: Path, names: list[str], feeds: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    model = ir.load(folder / "model.onnx")
    for node in model.graph:
        for value in node.outputs:
            if value.name in names:
                value.type = ir.TensorType(ir.DataType.FLOAT)
                model.graph.outputs.append(value)
    options = session_options(1)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    runs = [session.run(names, given) for given in feeds]
    return {name: np.concatenate([run[at].reshape(-1) for run in runs]) for at, name in enumerate(names)}
