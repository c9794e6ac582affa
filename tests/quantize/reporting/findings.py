"""The findings and the manifest of a bundle that was never built, for reports."""

from __future__ import annotations

from appliance.bundle import DecoderSpec, EvalReport, FileEntry, Manifest
from appliance.bundle.manifest import Source
from quantize.evaluation.distribution import Distribution
from quantize.evaluation.findings import AnswerPair, Findings, Try

DISTRIBUTION = Distribution((-2.0, -1.0, 0.0), (3, 1), ((0.5, 0.02), (0.99, 0.4)))
FULL = Findings(
    tries=(Try(0, 90_000_000, 0.08, 0.85), Try(210, 140_000_000, 0.004, 0.96), Try(40, 101_000_000, 0.03, 0.9)),
    sensitivity={f"layers.{layer}/self_attn/{part}_proj": 0.001 * layer for layer in range(12) for part in "qkvo"},
    widths={"layers.11/self_attn/v_proj": 8},
    distribution=DISTRIBUTION,
    answers=(
        AnswerPair("What is <b>7 + 5</b>?", "12", "<script>alert(1)</script>\x00\x1b[31m", True, False),
        AnswerPair("Tell me about ünïcödé.", "日本語 & more", "]]>"),
    ),
)


def manifest(*, gates_overruled: bool = False) -> Manifest:
    spec = DecoderSpec(
        architecture="llama",
        context_length=64,
        vocab_size=320,
        num_layers=2,
        num_kv_heads=2,
        head_dim=16,
        eos_token_ids=(0,),
    )
    files = [FileEntry(name=name, size_bytes=10, sha256="0" * 64) for name in ("model.onnx", "tokenizer.json")]
    return Manifest(
        name="tiny",
        model=spec,
        files=tuple(files),
        license="Apache-2.0",
        source=Source(uri="folder:tiny", sha256="1" * 64),
        recipe={"weights": {"scheme": "auto"}, "note": "<&>"},
        evaluation=EvalReport(metrics={"kl_mean": 0.03}, text="a <text>", gates_overruled=gates_overruled),
        tools={"onnxruntime": "1.32.0"},
    )
