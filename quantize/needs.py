"""The memory, disk and time of a build on this machine, computed from a checkpoint's sizes before the first stage.

The constants are those of Qwen2.5-Coder-0.5B, SmolLM2-135M and MiniLM on two x86 cores: anonymous memory at the peak of
each stage, and its time.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import QuantizeError
from appliance.host.cores import usable_cores
from appliance.host.memory import available_bytes

MOST_FLOAT_BYTES = 2_000_000_000  # of weights that are loaded in float; a larger model answers in int8

_FLOAT = 4  # bytes
# optimum's resident memory: 2.9 GB were measured at 135 million weights, 6.4 to 7.0 at 630 million.
_OPTIMUM_COPIES, _OPTIMUM_BYTES = 2.1, 1_800_000_000
_DIRECT_BYTES = 600_000_000  # whatever the model's size: 434 MB were measured at 0.6e9 parameters
_LIBRARY_BYTES = 900_000_000  # torch, transformers and onnxruntime in one process
_ENGINE_BYTES = 500_000_000  # onnxruntime alone, with the keys and values of some answers
_HELD_OUT_TOKENS = 3072  # whose log-probabilities an evaluation keeps in a file, up to a size
_MOST_KEPT_BYTES = 1 << 30
_STORED = {4: 17 / 32, 5: 21 / 32, 6: 25 / 32, 8: 33 / 32}  # bytes of a weight in blocks of 32 with one byte of scale
_WIDTHS: Mapping[str, tuple[int, ...]] = {"int8": (8,), "int4": (4, 8), "auto": (4, 8), "packed": (4, 5, 6, 8)}
_SEARCHED = frozenset({"auto", "packed"})
# Seconds of one core for a product of a matrix with its moments: outputs times inputs squared. Below 8 bits two rounds
# of a fit take nine such products, with 8 bits one of one and a half.
_PRODUCT_S = 5.1e-11
_FIT_PRODUCTS: Mapping[int, float] = {4: 9.0, 5: 9.0, 6: 9.0, 8: 1.5}
_LOGIT_COPIES, _WINDOW_TOKENS = 6, 256
_WORKER_BYTES, _MOMENT_COPIES = 350_000_000, 4
_EXPERT_COPIES = 2  # of the codes of a layer's experts, which are joined
_TEXT_COPIES = 3  # at most, not measured: the tensors, onnxruntime's and those that it packs for its kernels
_WITNESS_LOGITS = 3 * 192  # positions whose logits are compared, in copies
# Seconds for 1e9 weights of the graph. A text model has fewer weights and more text for each.
_SECONDS: Mapping[str, float] = {
    "export": 68,
    "fuse": 9,
    "dequantize": 8,
    "witness": 75,
    "calibrate": 57,
    "smooth": 75,
    "sensitivity": 165,
    "search": 80,
    "weights": 5,
    "evaluate": 65,
}
_TEXT_SECONDS: Mapping[str, float] = {"dequantize": 14, "export": 220, "witness": 250, "weights": 800, "evaluate": 150}
_DECODER_STAGES = ("checkpoint", "export", "fuse", "witness", "calibrate", "fit", "weights", "evaluate")
_TEXT_STAGES = ("checkpoint", "export", "witness", "weights", "evaluate")
_SEARCH_STAGES = ("sensitivity", "search")
PACKAGE = "package"


@dataclass(frozen=True, slots=True)
class StageNeeds:
    """One stage's peak of memory, the disk that it keeps, the disk that it uses meanwhile, and its time."""

    memory_bytes: int
    disk_bytes: int = 0
    scratch_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Needs:
    """The needs of some stages that run one after the other."""

    memory_bytes: int
    disk_bytes: int
    seconds: float

    @property
    def sentence(self) -> str:
        """The needs in words."""
        minutes = max(1, round(self.seconds / 60))
        return (
            f"about {self.memory_bytes / 1e9:.1f} GB of memory, {self.disk_bytes / 1e9:.1f} GB of disk and {minutes} "
            f"minute{'s' if minutes > 1 else ''}"
        )


@dataclass(frozen=True, slots=True)
class Model:
    """The sizes of a checkpoint on which needs depend.

    `is_rewritten` tells that the build writes its weights anew, as it does with a GGUF file. `layer_experts` are the
    weights of one layer's experts.
    """

    shapes: Sequence[tuple[int, ...]]
    config: Mapping[str, Any]
    is_decoder: bool
    is_rewritten: bool
    layer_experts: int = 0

    @property
    def num_parameters(self) -> int:
        """The number of weights in the file."""
        return sum(map(math.prod, self.shapes))

    @property
    def table(self) -> int:
        """The weights of the embedding, whose width nomic-bert names as GPT-2 does."""
        return int(self.config["vocab_size"]) * int(self.config.get("hidden_size") or self.config["n_embd"])

    @property
    def num_graph_weights(self) -> int:
        """The weights of the float graph, in which a decoder's embedding and head are two."""
        return self.num_parameters + (self.table if self.is_decoder and self.config["tie_word_embeddings"] else 0)

    @property
    def products(self) -> list[tuple[int, int]]:
        """The matrices (N, K), also of experts that are one tensor, but for those with a row for each token."""
        vocab = int(self.config["vocab_size"])
        plain = [(shape[0], shape[1]) for shape in self.shapes if len(shape) == 2 and shape[0] != vocab]
        stacks = [shape for shape in self.shapes if len(shape) == 3 and shape[1] > 1]  # and no convolution
        return plain + [(rows, columns) for count, rows, columns in stacks for _ in range(count)]

    @property
    def per_layer_table(self) -> int:
        """The weights of Gemma 4's per-layer embeddings, which have a row for each token."""
        width = self.config["num_hidden_layers"] * self.config.get("hidden_size_per_layer_input", 0)
        return int(self.config["vocab_size"] * width)

    def stored_bytes(self, scheme: str) -> int:
        """Estimate the bytes of the quantized graph; embedding and head are int8 in every scheme."""
        share = _STORED[min(_WIDTHS[scheme])] if self.is_decoder else _STORED[8]
        narrow = sum(n * k for n, k in self.products) + (self.per_layer_table if self.is_decoder else 0)
        return int(share * narrow + _STORED[8] * (self.num_parameters - narrow))


def stage_needs(model: Model, scheme: str) -> dict[str, StageNeeds]:
    """Estimate the needs of every stage by name."""
    floats = _FLOAT * model.num_graph_weights
    rates = _SECONDS if model.is_decoder else {**_SECONDS, **_TEXT_SECONDS}
    seconds = {name: rate * model.num_graph_weights / 1e9 for name, rate in rates.items()}
    loaded = _LIBRARY_BYTES + min(floats, MOST_FLOAT_BYTES)
    in_int8 = int(_STORED[8] * model.num_graph_weights) if floats > MOST_FLOAT_BYTES else 0
    answering = _ENGINE_BYTES + in_int8 if in_int8 else loaded
    quantized = model.stored_bytes(scheme)
    log_probs = _FLOAT * _HELD_OUT_TOKENS * int(model.config["vocab_size"]) if model.is_decoder else 0
    log_probs = log_probs if log_probs <= _MOST_KEPT_BYTES else 0
    rewritten = _FLOAT * model.num_parameters if model.is_rewritten else 0
    dequantized_s = seconds["dequantize"] * bool(rewritten)  # each time that a stage of a decoder reads the source
    copied = 0 if model.is_decoder else rewritten
    return {
        "checkpoint": StageNeeds(_LIBRARY_BYTES, copied, 0, 3.0 if model.is_decoder else dequantized_s),
        "export": StageNeeds(
            export_bytes(model.num_parameters)["optimum"], 0, floats + rewritten - copied, seconds["export"]
        ),
        "fuse": StageNeeds(_LIBRARY_BYTES, floats, 0, seconds["fuse"] + dequantized_s),
        "witness": StageNeeds(_witness_bytes(model, loaded), 0, 0, seconds["witness"] + dequantized_s),
        "calibrate": StageNeeds(answering, 0, in_int8, seconds["calibrate"]),
        "smooth": StageNeeds(loaded, floats, 0, seconds["smooth"]),
        "fit": _fit_needs(model, scheme),
        "sensitivity": StageNeeds(_sensitivity_bytes(model), 0, 0, seconds["sensitivity"] + 2 * dequantized_s),
        "search": StageNeeds(loaded, 0, log_probs + quantized, seconds["search"]),
        "weights": StageNeeds(
            _weights_bytes(model, floats, quantized), quantized, 0 if model.is_decoder else floats, seconds["weights"]
        ),
        "evaluate": StageNeeds(max(loaded, answering), 0, max(log_probs, in_int8), seconds["evaluate"]),
        PACKAGE: StageNeeds(_LIBRARY_BYTES, quantized, 0, 0.0),
    }


def export_bytes(num_parameters: int) -> dict[str, int]:
    """Return the memory that each way to the float graph takes at most."""
    return {"optimum": int(_OPTIMUM_BYTES + _OPTIMUM_COPIES * _FLOAT * num_parameters), "direct": _DIRECT_BYTES}


def stages_of(model: Model, scheme: str, *, is_exported: bool = True) -> tuple[str, ...]:
    """Return the names of the stages of a whole build in this scheme, by optimum's export or without."""
    if not model.is_decoder:
        return (*_TEXT_STAGES, PACKAGE)
    smoothed = ("smooth",) if scheme == "int8" else ()
    searched = _SEARCH_STAGES if scheme in _SEARCHED else ()
    stages = _DECODER_STAGES if is_exported else tuple(name for name in _DECODER_STAGES if name != "export")
    return (*stages, *smoothed, *searched, PACKAGE)


def needs_of(stages: Mapping[str, StageNeeds], names: Collection[str]) -> Needs:
    """Add the needs of the named stages up; a name that is not known needs nothing."""
    chosen = [stages[name] for name in names if name in stages]
    scratch = max((stage.scratch_bytes for stage in chosen), default=0)
    return Needs(
        memory_bytes=max((stage.memory_bytes for stage in chosen), default=0),
        disk_bytes=sum(stage.disk_bytes for stage in chosen) + scratch,
        seconds=sum(stage.seconds for stage in chosen),
    )


def check_needs(needs: Needs, folder: Path, *, free_bytes: int | None = None) -> None:
    """Refuse a build that this machine has no room for.

    Raises:
        QuantizeError: memory or disk is short.
    """
    memory = available_bytes() if free_bytes is None else free_bytes
    if needs.memory_bytes > memory:
        raise QuantizeError(
            f"the build needs {needs.memory_bytes / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} GB are free; close "
            "other programs, build on a larger machine, or try it with --force"
        )
    disk = shutil.disk_usage(folder).free
    if needs.disk_bytes > disk:
        raise QuantizeError(
            f"the build needs {needs.disk_bytes / 1e9:.1f} GB of disk, and {disk / 1e9:.1f} GB are free in {folder}; "
            "remove the stages of earlier builds (lantern-quantize clean), set LANTERN_HOME to another disk, or try it "
            "with --force"
        )


def _witness_bytes(model: Model, loaded: int) -> int:
    """Add a decoder's embedding, head and the compared logits: its layers are in memory one at a time.

    They lie in a process of their own; both took 2.99 GB for Qwen2.5-Coder-0.5B.
    """
    if not model.is_decoder:
        return loaded
    tables = 1 if model.config["tie_word_embeddings"] else 2
    logits = _WITNESS_LOGITS * int(model.config["vocab_size"])
    return _LIBRARY_BYTES + 2 * _WORKER_BYTES + _FLOAT * (tables * model.table + logits + model.layer_experts)


def _weights_bytes(model: Model, floats: int, quantized: int) -> int:
    """Add what a text model's calibration holds: the float weights in some copies, and the moments of every product."""
    if model.is_decoder:
        return _LIBRARY_BYTES + 2 * quantized
    moments = sum(k**2 for _, k in model.products)
    return _LIBRARY_BYTES + _TEXT_COPIES * floats + _FLOAT * moments


def _sensitivity_bytes(model: Model) -> int:
    """Add embedding, head and the logits of one window with their gradients; a layer is small beside them."""
    logits = _LOGIT_COPIES * _WINDOW_TOKENS * int(model.config["vocab_size"])
    return _LIBRARY_BYTES + _FLOAT * (2 * model.table + logits)


def _fit_needs(model: Model, scheme: str) -> StageNeeds:
    widths, products = _WIDTHS[scheme], model.products
    fitted = widths if scheme in _SEARCHED else widths[:1]  # in int4 few parts have another width
    stored = sum(_STORED[width] for width in fitted) * sum(n * k for n, k in products)
    widest = max((k for _, k in products), default=0)
    worker = _WORKER_BYTES + _FLOAT * _MOMENT_COPIES * widest**2 + _EXPERT_COPIES * model.layer_experts
    work = sum(_FIT_PRODUCTS[width] for width in fitted) * sum(n * k**2 for n, k in products)
    return StageNeeds(_LIBRARY_BYTES + worker, int(stored), 0, _PRODUCT_S * work / usable_cores())
