"""A graph to load: where it lies, what belongs to it, and the session that runs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import onnxruntime as ort

from appliance.engine.kv_cache import CacheType
from appliance.engine.provider import CPU, providers_of, session_options
from appliance.engine.tuning import Tuning

Variant = Literal["prompt", "stepwise"]
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, slots=True)
class DeviceGraph:
    """A decoder with keys and values in float16 for another execution provider than the processor's.

    `weights`: the folder with the bundle's weights, which the graph names.
    """

    path: Path
    provider: str
    weights: Path


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A graph to load, whether onnxruntime has already optimized it, and how it runs best on this board."""

    path: Path
    is_optimized: bool = False
    tuning: Tuning = field(default_factory=Tuning.default)
    cache_type: CacheType | None = None  # None: as the bundle says
    fast_prompts: bool = True
    device: DeviceGraph | None = None  # None: the processor

    stepwise_width: ClassVar[int] = 6  # tokens of a stepwise run

    def session(self, num_threads: int, *, spinning: bool) -> ort.InferenceSession:
        """Load it for where it is to run."""
        return self._load(self.path, num_threads, spinning=spinning)

    def stepwise_session(self, num_threads: int, *, spinning: bool) -> ort.InferenceSession | None:
        """Load its stepwise variant, where there is one; both map the same weights."""
        return self._load_variant("stepwise", num_threads, spinning=spinning)

    def prompt_session(self, num_threads: int, *, spinning: bool) -> ort.InferenceSession | None:
        """Load its variant for prompts, where one is faster here and wanted; its products have weights of their own."""
        return self._load_variant("prompt", num_threads, spinning=spinning) if self.fast_prompts else None

    def _load_variant(self, name: Variant, num_threads: int, *, spinning: bool) -> ort.InferenceSession | None:
        path = variant_path(self.path, name)
        return self._load(path, num_threads, spinning=spinning) if self.is_optimized and path.exists() else None

    def _load(self, path: Path, num_threads: int, *, spinning: bool) -> ort.InferenceSession:
        options = session_options(num_threads, spinning=spinning)
        if self.is_optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self.device is None:
            return ort.InferenceSession(str(path), options, providers=[CPU])
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(self.device.weights))
        return ort.InferenceSession(path.read_bytes(), options, providers=providers_of(self.device.provider))


def variant_path(model: Path, name: Variant) -> Path:
    """Where a variant of a graph lies."""
    return model.with_name(model.name.replace("model", name, 1))
