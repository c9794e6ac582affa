"""The engine's own runners over a folder's model, with the threads of this workstation."""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime as ort

from appliance.bundle import DecoderSpec, EncoderSpec
from appliance.bundle.manifest import MODEL_NAME
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.model_runner import OrtModelRunner
from appliance.engine.runtime.provider import session_options
from appliance.engine.texts.embedder import Embedder, Reranker

_MAX_THREADS = 8


def runner_threads() -> int:
    """Return the number of threads for onnxruntime on this workstation."""
    return min(os.cpu_count() or 1, _MAX_THREADS)


def load_runner(folder: Path, spec: DecoderSpec, *, capacity: int, num_slots: int = 1) -> OrtModelRunner:
    """Load a decoder; `capacity` counts the tokens of each row."""
    return OrtModelRunner(
        ModelFile(folder / MODEL_NAME),
        spec,
        num_slots=num_slots,
        capacity=capacity,
        num_threads=runner_threads(),
        spinning=False,
    )


def load_float_runner(folder: Path, spec: DecoderSpec, *, capacity: int, num_slots: int = 1) -> OrtModelRunner:
    """Load the float form of a decoder, or one that stands for it: keys and values are float32."""
    return OrtModelRunner(
        ModelFile(folder / MODEL_NAME),
        spec.model_copy(update={"kv_cache_dtype": "float32"}),
        num_slots=num_slots,
        capacity=capacity,
        num_threads=runner_threads(),
    )


def load_embedder(folder: Path, spec: EncoderSpec) -> Embedder:
    """Load a text encoder."""
    return Embedder(ModelFile(folder / MODEL_NAME), spec, num_threads=runner_threads())


def load_reranker(folder: Path) -> Reranker:
    """Load a cross-encoder."""
    return Reranker(ModelFile(folder / MODEL_NAME), num_threads=runner_threads())


def float_session(folder: Path) -> ort.InferenceSession:
    """Load a float graph as optimum exported it."""
    return ort.InferenceSession(str(folder / MODEL_NAME), session_options(runner_threads()))
