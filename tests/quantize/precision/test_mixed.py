"""Widths that differ within one product, int8 keys and values, and the sensitivity from gradients."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
import transformers
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.engine.runtime.provider import session_options
from appliance.engine.types import StepPlan
from quantize.builder.weights import checkpoint_weights
from quantize.evaluation.decoder import Reference, evaluate_decoder
from quantize.evaluation.hidden_states import HiddenStates
from quantize.evaluation.runners import load_runner
from quantize.evaluation.segments import feeds_of
from quantize.fusion.export import DECODER_TASK, export
from quantize.fusion.fuse import fuse_file
from quantize.graph.codec import Bits
from quantize.graph.factors import Factors
from quantize.precision.fit import fit_matrices
from quantize.precision.fitted import load_errors, load_fitted, save_fitted
from quantize.precision.floor import smallest_bytes
from quantize.precision.gptq import Moments, gptq
from quantize.precision.kv_scales import write_int8_cache
from quantize.precision.matrices import matrices_of
from quantize.precision.mixed import decoder_parts, widths_by_pattern, write_mixed
from quantize.precision.parts import Part
from quantize.precision.sensitivity import load_sensitivity, measure_sensitivity
from quantize.precision.torch_blocks import TorchBlocks
from quantize.progress import SILENT
from quantize.sources.checkpoint import read_checkpoint
from quantize.sources.decoder_config import read_decoder_config
from tests.quantize.tiny import VOCAB, tiny_spec, write_decoder

pytestmark = pytest.mark.slow

_WIDTHS: tuple[Bits, ...] = (4, 5, 6, 8)
_RNG = np.random.default_rng(3)
_WINDOWS = _RNG.integers(3, VOCAB, (12, 48))
_HELD_OUT = _RNG.integers(3, VOCAB, (12, 48))


@dataclass(frozen=True, slots=True)
class Fitted:
    checkpoint: Path
    fused: Path
    fit: Path
    spec: DecoderSpec
    parts: list[Part]


@pytest.fixture(scope="module", params=["llama", "phi3", "gemma3_text", "granite"])
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    root = tmp_path_factory.mktemp("fitted")
    checkpoint = write_decoder(root / "checkpoint", request.param)
    for name in ("fused", "fit"):
        (root / name).mkdir()
    config = read_decoder_config(checkpoint)
    export(checkpoint, root / "exported", task=DECODER_TASK)
    fuse_file(root / "exported", root / "fused", config, context_length=64)
    spec = tiny_spec(config)
    fit_matrices(root / "fused", root / "fit", _WIDTHS, _WINDOWS, spec, SILENT)
    return Fitted(checkpoint, root / "fused", root / "fit", spec, decoder_parts(root / "fused", spec))


def test_parts_are_named_like_the_checkpoints_projections(fitted: Fitted) -> None:
    names = {part.name for part in fitted.parts if part.name.startswith("layers.1/")}
    attention = {f"layers.1/self_attn/{part}_proj" for part in "qkvo"}
    assert names == attention | {f"layers.1/mlp/{part}_proj" for part in ("gate", "up", "down")}


def test_one_products_parts_can_differ_in_width(fitted: Fitted, tmp_path: Path) -> None:
    int8 = ["layers.0/self_attn/k_proj", "layers.1/mlp/up_proj"]
    write_mixed(fitted.fused, fitted.fit, tmp_path, fitted.spec, widths_by_pattern(fitted.parts, {8: int8}))
    nodes = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node
    widths = {
        n.input[1]: next(a.i for a in n.attribute if a.name == "bits") for n in nodes if n.op_type == "MatMulNBits"
    }
    attention = [f"layers.0/self_attn/qkv_proj.{i}.codes" for i in range(3)]
    assert [widths[name] for name in attention] == [4, 8, 4]
    assert [widths[f"layers.1/mlp/gate_up_proj.{i}.codes"] for i in range(2)] == [4, 8]
    assert all(width == 4 for name, width in widths.items() if "layers.1/self_attn" in name)
    assert np.isfinite(logits(tmp_path, fitted.spec, _HELD_OUT[0])).all()


def test_the_smallest_file_is_known_from_the_shapes(fitted: Fitted, tmp_path: Path) -> None:
    write_mixed(fitted.fused, fitted.fit, tmp_path, fitted.spec, widths_by_pattern(fitted.parts, {}))
    size_bytes = sum(path.stat().st_size for path in tmp_path.iterdir())
    config = read_checkpoint(fitted.checkpoint).config
    assert smallest_bytes(config, (4, 8), with_overhead=False) <= size_bytes
    assert size_bytes == pytest.approx(smallest_bytes(config, (4, 8)), rel=0.25)
    assert smallest_bytes(config, (4, 5, 6, 8)) < smallest_bytes(config, (4, 8)) < smallest_bytes(config, (8,))


def test_parts_of_one_product_are_read_apart_without_a_copy(fitted: Fitted, tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    (tmp_path / "whole").mkdir()
    int8 = ["*/self_attn/[qk]_proj", "*/up_proj"]
    write_mixed(fitted.fused, fitted.fit, tmp_path / "mixed", fitted.spec, widths_by_pattern(fitted.parts, {8: int8}))
    write_mixed(fitted.fused, fitted.fit, tmp_path / "whole", fitted.spec, widths_by_pattern(fitted.parts, {}))
    counts = {
        name: Counter(n.op_type for n in onnx.load(tmp_path / name / "model.onnx", load_external_data=False).graph.node)
        for name in ("mixed", "whole")
    }
    assert counts["mixed"]["Concat"] == counts["mixed"]["Split"] == 0 < counts["whole"]["Split"]


def test_a_fitted_matrix_is_read_back_in_every_width(fitted: Fitted, tmp_path: Path) -> None:
    matrix = next(m for m in matrices_of(ir.load(fitted.fused / "model.onnx").graph) if m.name.endswith("down_proj"))
    for bits in _WIDTHS:
        wanted = gptq(matrix.weight(), Moments.of(np.diag(np.arange(1, 97, dtype=np.float32))), bits).stored
        save_fitted(tmp_path, matrix.name, wanted)
        assert np.array_equal(load_fitted(tmp_path, matrix.name, bits).dequantized(), wanted.dequantized())


def test_more_int8_is_closer_to_float(fitted: Fitted, tmp_path: Path) -> None:
    found = []
    for name, int8 in (("none", []), ("attention", ["*/self_attn/*"]), ("all", ["*"])):
        (tmp_path / name).mkdir()
        write_mixed(fitted.fused, fitted.fit, tmp_path / name, fitted.spec, widths_by_pattern(fitted.parts, {8: int8}))
        found.append(mean_kl(fitted.fused, tmp_path / name, fitted.spec))
    assert found[0] > found[1] > found[2]


def test_each_width_is_closer_to_float_than_the_one_below_and_takes_the_bytes_that_were_foretold(
    fitted: Fitted, tmp_path: Path
) -> None:
    found, sizes = [], []
    for bits in _WIDTHS:
        folder = tmp_path / str(bits)
        folder.mkdir()
        write_mixed(fitted.fused, fitted.fit, folder, fitted.spec, {part.name: bits for part in fitted.parts})
        found.append(mean_kl(fitted.fused, folder, fitted.spec))
        sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
    assert found == sorted(found, reverse=True)
    assert found[1] < found[0] / 2
    assert sizes == sorted(sizes)


def test_a_head_of_six_bits_gives_the_embedding_its_rows_too(fitted: Fitted, tmp_path: Path) -> None:
    int8 = widths_by_pattern(fitted.parts, {8: ["*"]})
    for name, widths in (("eight", int8), ("six", {**int8, "lm_head": 6})):
        (tmp_path / name).mkdir()
        write_mixed(fitted.fused, fitted.fit, tmp_path / name, fitted.spec, widths)
    eight, six = (mean_kl(fitted.fused, tmp_path / name, fitted.spec) for name in ("eight", "six"))
    assert eight < six < 0.1
    sizes = [(tmp_path / name / "model.onnx.data").stat().st_size for name in ("six", "eight")]
    assert sizes[0] < sizes[1]


def test_later_evaluations_need_the_float_model_no_more(fitted: Fitted, tmp_path: Path) -> None:
    for name in ("float", "int4", "scratch"):
        (tmp_path / name).mkdir()
    for path in fitted.fused.iterdir():
        shutil.copy(path, tmp_path / "float")
    write_mixed(fitted.fused, fitted.fit, tmp_path / "int4", fitted.spec, widths_by_pattern(fitted.parts, {}))
    with Reference(tmp_path / "float", fitted.checkpoint, fitted.spec, tmp_path / "scratch") as reference:
        first = evaluate_decoder(reference, tmp_path / "int4", fitted.spec, SILENT)
        shutil.rmtree(tmp_path / "float")
        second = evaluate_decoder(reference, tmp_path / "int4", fitted.spec, SILENT)
        same = evaluate_decoder(reference, fitted.fused, fitted.spec, SILENT)
        assert not list((tmp_path / "scratch").iterdir())
    assert first.metrics == second.metrics
    assert first.metrics["kl_mean"] > 100 * abs(same.metrics["kl_mean"])


def test_hidden_states_block_by_block_give_the_logits_of_the_whole_graph(fitted: Fitted) -> None:
    texts = [_HELD_OUT[0], _HELD_OUT[1][:31]]
    states = HiddenStates.of(fitted.fused, texts, SILENT)
    head = states.head()
    for index, text in enumerate(texts):
        parts = [head(index, range(at, min(at + 10, len(text)))) for at in range(0, len(text), 10)]
        whole = logits(fitted.fused, fitted.spec, text)
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-4, atol=1e-4 * np.abs(whole).max())


def test_a_reference_that_is_too_large_for_a_file_is_computed_anew_alike(fitted: Fitted, tmp_path: Path) -> None:
    (tmp_path / "int4").mkdir()
    write_mixed(fitted.fused, fitted.fit, tmp_path / "int4", fitted.spec, widths_by_pattern(fitted.parts, {}))
    found = []
    for most_bytes in (1 << 30, 0):
        with Reference(fitted.fused, fitted.checkpoint, fitted.spec, tmp_path, most_kept_bytes=most_bytes) as reference:
            found += [evaluate_decoder(reference, tmp_path / "int4", fitted.spec, SILENT).metrics for _ in range(2)]
    assert found[0]["kl_mean"] > 0
    assert all(metrics == found[0] for metrics in found)


def blocks_of(fitted: Fitted) -> TorchBlocks:
    return TorchBlocks.canonical(fitted.checkpoint, checkpoint_weights(fitted.checkpoint))


def test_gradients_foretell_what_int4_costs_each_part(fitted: Fitted, tmp_path: Path) -> None:
    measure_sensitivity(blocks_of(fitted), fitted.fit, Factors(), fitted.parts, _HELD_OUT, tmp_path, SILENT)
    foretold = load_sensitivity(tmp_path)
    errors = load_errors(fitted.fit)
    assert set(foretold) == set(errors) - {"lm_head"} == {part.name for part in fitted.parts}
    assert all(found.share(8) < 0.1 for found in errors.values())
    (tmp_path / "int8").mkdir()
    write_mixed(fitted.fused, fitted.fit, tmp_path / "int8", fitted.spec, widths_by_pattern(fitted.parts, {8: ["*"]}))
    base = mean_kl(fitted.fused, tmp_path / "int8", fitted.spec)
    for part in [part for part in fitted.parts if part.name.startswith("layers.1/")]:
        folder = tmp_path / part.name.replace("/", ".")
        folder.mkdir()
        others = [other.name for other in fitted.parts if other != part]
        write_mixed(fitted.fused, fitted.fit, folder, fitted.spec, widths_by_pattern(fitted.parts, {8: others}))
        found = mean_kl(fitted.fused, folder, fitted.spec) - base
        assert abs(foretold[part.name] - found) < 0.5 * found + base, part.name


def test_int8_keys_and_values_cost_little_and_take_a_quarter(fitted: Fitted, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "int8").mkdir()
    write_mixed(fitted.fused, fitted.fit, tmp_path / "weights", fitted.spec, {part.name: 8 for part in fitted.parts})
    spec = write_int8_cache(tmp_path / "weights", fitted.fit, tmp_path / "int8", fitted.spec)
    whole = logits(tmp_path / "int8", spec, _HELD_OUT[0])
    reference = logits(fitted.fused, fitted.spec, _HELD_OUT[0])
    assert np.abs(whole - reference).mean() < 0.05 * reference.std()

    runner = load_runner(tmp_path / "int8", spec, capacity=64)
    chunks = [runner.run(plan(_HELD_OUT[0][lo:hi], lo)).copy() for lo, hi in ((0, 20), (20, 47), (47, 48))]
    assert np.abs(np.concatenate(chunks) - reference).mean() < 0.05 * reference.std()


def test_layer_by_layer_gradients_are_those_of_the_whole_model(fitted: Fitted, tmp_path: Path) -> None:
    parts = decoder_parts(fitted.fused, fitted.spec, with_head=True)
    measure_sensitivity(blocks_of(fitted), fitted.fit, Factors(), parts, _HELD_OUT, tmp_path, SILENT)
    found, wanted = load_sensitivity(tmp_path), whole_sensitivity(fitted, parts)
    assert list(found) == sorted(part.name for part in parts)
    for part in parts:
        assert found[part.name] == pytest.approx(wanted[part.name], rel=1e-5), part.name


def test_the_fit_leaves_scales_a_channels_largest_magnitude_over_127_keys_first(fitted: Fitted) -> None:
    spec = fitted.spec
    found = np.frombuffer((fitted.fit / "kv_scales.bin").read_bytes(), "<f4")
    scales = found.reshape(spec.num_layers, 2, spec.num_kv_heads, spec.head_dim)
    session = ort.InferenceSession(str(fitted.fused / "model.onnx"), session_options(1))
    feeds = feeds_of(fitted.fused, list(_WINDOWS))
    for layer in range(spec.num_layers):
        for at, part in enumerate(("key", "value")):
            runs = [session.run([f"present.{layer}.{part}"], given)[0][0] for given in feeds]
            largest = np.max([np.abs(rows).max(axis=1) for rows in runs], axis=0)
            np.testing.assert_allclose(scales[layer, at], largest / 127, rtol=1e-5)


def mean_kl(reference: Path, candidate: Path, spec: DecoderSpec) -> float:
    found = []
    for window in _HELD_OUT:
        old, new = (log_softmax(logits(folder, spec, window)) for folder in (reference, candidate))
        found.append((np.exp(old) * (old - new)).sum(axis=1).mean())
    return float(np.mean(found))


def logits(folder: Path, spec: DecoderSpec, window: NDArray[np.int64]) -> NDArray[np.float32]:
    return load_runner(folder, spec, capacity=64).run(plan(window, 0))


def plan(tokens: NDArray[np.int64], past: int) -> StepPlan:
    return StepPlan(0, tokens[None], np.array([past], np.int32), np.arange(len(tokens), dtype=np.int64))


def log_softmax(values: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float32)


def whole_sensitivity(fitted: Fitted, parts: list[Part]) -> dict[str, float]:
    """Compute the same figures from the model as transformers loads it, all layers at once."""
    model = transformers.AutoModelForCausalLM.from_pretrained(fitted.checkpoint, dtype=torch.float32).eval()
    generator, errors = torch.Generator().manual_seed(0), load_errors(fitted.fit)
    found = dict.fromkeys((part.name for part in parts), 0.0)
    for window in _HELD_OUT:
        model.zero_grad()
        log_probs = torch.log_softmax(model(torch.from_numpy(window)[None], use_cache=False).logits[0], dim=-1)
        sampled = torch.multinomial(log_probs.detach().exp(), 1, generator=generator)[:, 0]
        signs = torch.randint(0, 2, sampled.shape, generator=generator) * 2 - 1
        (log_probs[torch.arange(len(sampled)), sampled] * signs).sum().backward()
        for part in parts:
            weight, rows = module_weight(model, part)
            stored = load_fitted(fitted.fit, part.matrix, errors[part.name].narrowest).rows(part.rows)
            change = (torch.from_numpy(stored.dequantized()) - weight.detach()[rows]).to(torch.bfloat16)
            found[part.name] += float((weight.grad[rows] * change).sum(dim=1).square().sum()) / 2 / _HELD_OUT.size
    return found


def module_weight(model: torch.nn.Module, part: Part) -> tuple[torch.Tensor, slice]:
    """Return the weight that a part is some rows of: the checkpoint's own projection, or one that it has joined."""
    modules = {name.removeprefix("model."): module for name, module in model.named_modules()}
    joined = modules.get(part.matrix.replace("/", "."))
    if joined is not None:
        return joined.weight, part.rows
    return modules[part.name.replace("/", ".")].weight, slice(None)
