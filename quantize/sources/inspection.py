"""A source looked at without a build: what it is, what would be used and left out, and what a build would need."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantize.needs import Model, Needs, export_bytes, needs_of, stage_needs, stages_of
from quantize.sources.census import decoder_shapes
from quantize.sources.checkpoint import is_text_model, read_checkpoint
from quantize.sources.decoder_config import decoder_config
from quantize.sources.decoder_keys import read_decoder_keys, why_not_searched
from quantize.sources.experts import expert_weights, experts_of, mlps
from quantize.sources.export_choice import choose_export
from quantize.sources.families import DECODERS
from quantize.sources.folder import inside
from quantize.sources.gguf_config import gguf_config
from quantize.sources.gguf_file import read_gguf_checkpoint
from quantize.sources.gguf_header import read_gguf, split_files
from quantize.sources.kept import conversation_bytes
from quantize.sources.tokenizer import read_tokenizer

_BYTES_OF_INT4, _BYTES_OF_INT8 = 0.5625, 1.0625  # a code and its share of the block's scale
_CONTEXT = 2048
REST_OF_BOARD = 700_000_000  # bytes: the system and the server, before a model


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint's facts and needs.

    `num_active_parameters` are those that one token is multiplied with: of experts those that it gets. All are in
    memory. `left_out` gives the reason for each key and tensor that is not used. `builds` holds the needs of a whole
    build by scheme, of which finished stages make less; `export` is the way to the float graph that it takes here, None
    for a text encoder.
    """

    architecture: str
    num_parameters: int
    num_active_parameters: int
    source_bytes: int
    max_positions: int
    context_limit: str | None
    left_out: Mapping[str, str]
    builds: Mapping[str, Needs]
    export: str | None
    export_memory_bytes: Mapping[str, int]
    bundle_bytes: Mapping[str, int]
    board_memory_bytes: Mapping[str, int]

    def fits(self, memory_bytes: int) -> list[str]:
        """Return the schemes whose bundle runs on a board with this much memory."""
        return [scheme for scheme, needed in self.board_memory_bytes.items() if needed <= memory_bytes]


def inspect_source(path: Path) -> Inspection:
    """Read a checkpoint's folder or GGUF file and judge it.

    Raises:
        QuantizeError: it cannot be built, with the sentence that a build would give.
    """
    if path.suffix == ".gguf":
        gguf = read_gguf_checkpoint(path)
        config, left_out = gguf.config, gguf.left_out
        shapes = [tensor.shape for tensor in gguf.tensors.values()]
        source_bytes = sum(file.stat().st_size for file in split_files(path))
    else:
        found = read_checkpoint(path)
        config = found.config
        left_out = {**found.left_out, **read_tokenizer(path, config["vocab_size"]).left_out}
        tensors = found.weights.tensors.values()
        shapes = [tensor.shape for tensor in tensors]
        files = {inside(path, tensor.path.name) for tensor in tensors}
        source_bytes = sum(file.stat().st_size for file in files)
    parameters = sum(map(math.prod, shapes))
    model = model_of(path)
    bundles = bundle_bytes_of(model)
    positions = decoder_config(config, {}) if config["model_type"] in DECODERS else None
    cache = conversation_bytes(positions, _CONTEXT) if model.is_decoder and positions is not None else 0
    export = choose_export("auto", model).way if model.is_decoder else None
    searched = ("auto", "packed") if model.is_decoder and why_not_searched(config) is None else ()
    schemes = ("int4", "int8", *searched) if model.is_decoder else ("int8",)
    return Inspection(
        architecture=str(config["model_type"]),
        num_parameters=parameters,
        num_active_parameters=parameters - (_idle_weights(config) if model.is_decoder else 0),
        source_bytes=source_bytes,
        max_positions=positions.max_positions if positions is not None else _positions_of_text(config),
        context_limit=None if positions is None else positions.limit,
        left_out=left_out,
        builds={scheme: _whole_build(model, scheme, is_exported=export != "direct") for scheme in schemes},
        export=export,
        export_memory_bytes=export_bytes(parameters) if model.is_decoder else {},
        bundle_bytes=bundles,
        board_memory_bytes={scheme: size + cache + REST_OF_BOARD for scheme, size in bundles.items()},
    )


def model_of(path: Path, *, is_text: bool = False) -> Model:
    """Return the sizes on which a build's needs depend, from headers alone; `is_text`: a text model is made of it.

    Raises:
        QuantizeError: it cannot be built.
    """
    if path.suffix == ".gguf":
        gguf = read_gguf(path)
        keys = read_decoder_keys(gguf_config(gguf)[0], gguf.path.name)
        return Model(list(decoder_shapes(keys.config).values()), keys.config, is_decoder=not is_text, is_rewritten=True)
    found = read_checkpoint(path)
    shapes = [tensor.shape for tensor in found.weights.tensors.values()]
    is_decoder = not (is_text or is_text_model(path))
    is_rewritten, experts = not found.weights.as_stored, None
    if found.architecture in DECODERS:
        experts = experts_of(found.config)
    layer_experts = 0 if experts is None else experts.count * expert_weights(experts, found.config["hidden_size"])
    return Model(shapes, found.config, is_decoder=is_decoder, is_rewritten=is_rewritten, layer_experts=layer_experts)


def _whole_build(model: Model, scheme: str, *, is_exported: bool) -> Needs:
    return needs_of(stage_needs(model, scheme), stages_of(model, scheme, is_exported=is_exported))


def _idle_weights(config: Mapping[str, Any]) -> int:
    """Return the weights of the experts that a token does not get, in all layers."""
    experts = experts_of(config)
    if experts is None:
        return 0
    layers = sum(kind != "dense" for kind in mlps(config))
    return layers * (experts.count - experts.chosen) * expert_weights(experts, config["hidden_size"])


def _positions_of_text(config: Mapping[str, object]) -> int:
    return int(str(config.get("max_position_embeddings") or config["n_positions"]))


def bundle_bytes_of(model: Model) -> dict[str, int]:
    """Return the bytes of the weights by scheme; a text encoder has int8 only, and a head or table is int8 in both."""
    int8 = int(model.num_parameters * _BYTES_OF_INT8)
    if not model.is_decoder:
        return {"int8": int8}
    wide = model.table if model.config["tie_word_embeddings"] else 2 * model.table
    return {"int4": int((model.num_parameters - wide) * _BYTES_OF_INT4 + wide * _BYTES_OF_INT8), "int8": int8}
