"""A graph to load: its path, its variants, and the sessions that run them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import onnxruntime as ort

from appliance.bundle.manifest import MODEL_DATA_NAME
from appliance.engine.graphs.given import Bytes
from appliance.engine.graphs.stored_codes import fold_codes
from appliance.engine.graphs.unsigned import unsigned_products
from appliance.engine.kernels import register_kernels
from appliance.engine.runtime.kv_cache import CacheType
from appliance.engine.runtime.product import int8_products_are_exact
from appliance.engine.runtime.provider import CPU, providers_of, session_options
from appliance.engine.runtime.shared_weights import share_weights
from appliance.engine.runtime.tuning import Tuning

Variant = Literal["prompt", "verify", "replay"]
# Names in the folders of prepacked models; other ones would make every device prepare its models again.
_FILE_NAMES: dict[Variant, str] = {"prompt": "prompt", "verify": "stepwise", "replay": "replay"}
BLOCKS_DATA_NAME = "blocks.bin"  # the weights of the kernels' form, in its folder
Fitting = Callable[[bytes, Path, Path | None], tuple[bytes, dict[str, Bytes]] | None]
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, slots=True)
class DeviceGraph:
    """A decoder with keys and values in float16, for the execution provider of a GPU.

    `weights`: the folder of the bundle's weights, which the graph names.
    """

    path: Path
    provider: str
    weights: Path


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A graph to load, optimized or not, and the settings with which it is fastest on this board.

    `kernels`: the library of Lantern's kernels, if a graph needs it. `weights`: the folder of the bundle, whose file
    holds what a graph for the kernels does not have beside it. `prompt_path`: the graph for prompts, where it is not
    beside this one.
    """

    path: Path
    is_optimized: bool = False
    tuning: Tuning = field(default_factory=Tuning.default)
    cache_type: CacheType | None = None  # None: the bundle's own
    fast_prompts: bool = True
    device: DeviceGraph | None = None  # None: the processor
    kernels: Path | None = None
    weights: Path | None = None
    prompt_path: Path | None = None

    verify_width: ClassVar[int] = 6  # tokens of one run of the verify graph

    def identity(self, digest: str) -> str:
        """Return a name of the bundle and of all that the bits of its keys and values depend on."""
        variant = variant_path(self.path, "prompt")
        own = variant if self.fast_prompts and variant.exists() else self.path  # where there is none, no switch matters
        names = [part for path in (self.path, self.prompt_path or own) for part in (path.parent.name, path.name)]
        parts = [digest, *names, ort.__version__]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def session(self, num_threads: int, *, spinning: bool) -> ort.InferenceSession:
        """Load it for the device that runs it."""
        return self._load(self.path, num_threads, spinning=spinning)

    def verify_session(self, num_threads: int, *, spinning: bool) -> ort.InferenceSession | None:
        """Load the verify graph, if there is one; both map the same weights."""
        return self._load_variant("verify", num_threads, spinning=spinning)

    def replay_session(self, num_threads: int, *, spinning: bool) -> ort.InferenceSession | None:
        """Load the graph that advances recurrent states by the accepted tokens of a draft, if there is one."""
        return self._load_variant("replay", num_threads, spinning=spinning)

    def prompt_session(self, num_threads: int, *, spinning: bool) -> ort.InferenceSession | None:
        """Load the graph for prompts, if it is faster here and wanted; its products have weights of their own."""
        if not self.fast_prompts:
            return None
        if self.prompt_path is not None:
            return self._load(self.prompt_path, num_threads, spinning=spinning)
        return self._load_variant("prompt", num_threads, spinning=spinning)

    def _load_variant(self, name: Variant, num_threads: int, *, spinning: bool) -> ort.InferenceSession | None:
        path = variant_path(self.path, name)
        return self._load(path, num_threads, spinning=spinning) if self.is_optimized and path.exists() else None

    def _load(self, path: Path, num_threads: int, *, spinning: bool) -> ort.InferenceSession:
        options = session_options(num_threads, spinning=spinning)
        if self.is_optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self.kernels is not None:
            return self._load_with_kernels(path, options, self.kernels)
        if self.device is not None:
            return load_bundle_graph(path, self.device.weights, options, providers_of(self.device.provider))
        if self.is_optimized:
            return ort.InferenceSession(str(path), options, providers=[CPU])
        return load_bundle_graph(path, path.parent, options, [CPU])

    def _load_with_kernels(self, path: Path, options: ort.SessionOptions, kernels: Path) -> ort.InferenceSession:
        """Load a graph of the kernels' form with the weights that all its graphs share, or one of the stock form."""
        register_kernels(kernels, options)
        own = path.with_name(BLOCKS_DATA_NAME)
        if not own.exists():
            return ort.InferenceSession(str(path), options, providers=[CPU])
        files = [own] if self.weights is None else [own, self.weights / MODEL_DATA_NAME]
        present = {file.name: file for file in files if file.exists()}
        graph, held = share_weights(path.read_bytes(), present, options, present=own.name)
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent))
        session = ort.InferenceSession(graph, options, providers=[CPU])
        session.lantern_weights = held  # onnxruntime keeps addresses only
        return session


def load_bundle_graph(
    path: Path,
    weights: Path,
    options: ort.SessionOptions,
    providers: Sequence[str],
    *,
    scratch: Path | None = None,
) -> ort.InferenceSession:
    """Load a graph as a bundle has it, whose weights lie in the folder `weights`: its codes in order, products exact.

    `scratch` is a folder for the weights that change, which take memory without it.
    """
    model = path.read_bytes()
    given: dict[str, Bytes] = {}
    for fit in _fittings(providers):
        found = fit(model, weights, scratch)
        if found is not None:
            model = found[0]
            given |= found[1]
    if not given and path.parent == weights:
        return ort.InferenceSession(str(path), options, providers=providers)
    options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights))
    if not given:
        return ort.InferenceSession(model, options, providers=providers)
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in given.values()]
    options.add_external_initializers(list(given), values)
    session = ort.InferenceSession(model, options, providers=providers)
    session.lantern_weights = (values, given)  # onnxruntime keeps addresses only
    return session


def _fittings(providers: Sequence[str]) -> Iterator[Fitting]:
    """Yield what makes the graph of a bundle fit these providers, and this processor."""
    yield fold_codes
    if list(providers) == [CPU] and not int8_products_are_exact():
        yield unsigned_products


def variant_path(model: Path, name: Variant) -> Path:
    """Return the path of a variant of a graph."""
    return model.with_name(model.name.replace("model", _FILE_NAMES[name], 1))
