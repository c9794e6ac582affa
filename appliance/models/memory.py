"""Memory needs of a model, computed before it is loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from appliance.bundle import DecoderSpec, EncoderSpec, RerankerSpec, SignedManifest
from appliance.bundle.manifest import KV_SCALES_NAME
from appliance.engine.checkpoints import num_places
from appliance.engine.graphs.attention import ATTENTION_BYTES, text_scores_bytes
from appliance.engine.graphs.prompt import int8_product_bytes
from appliance.engine.graphs.slot_arrays import SlotArray, SlotLayout, layout_of
from appliance.engine.runtime.kv_cache import CacheType
from appliance.engine.runtime.prepacked import FormBytes
from appliance.engine.runtime.provider import accelerators
from appliance.engine.runtime.slot_archive import MOST_STATES
from appliance.engine.texts.embedder import MAX_TOKENS_PER_RUN
from appliance.errors import ModelError
from appliance.models.loaded import EngineSettings

MARGIN_BYTES = 64 << 20  # stays free for requests, connections and the rest of the system
_DEVICE_BYTES = 512 << 20  # a GPU's context and libraries, where the board shares its memory with one; not measured
_SHORTEST_TEXT = 512  # tokens, which nearly every text model takes
_SCRATCH_BYTES = (48 << 20) + ATTENTION_BYTES  # a chunk's activations, vocabulary tables, onnxruntime's own


@dataclass(frozen=True, slots=True)
class Need:
    """The memory of a model with keys and values of this type; None for a model that has none.

    `fast_prompts`: with the second set of weights of a graph for prompts, if one is faster. `has_checkpoints`: with the
    memory for recurrent states within prompts, if there are any. `max_text_tokens`: the longest text of a text model.
    """

    cache_type: CacheType | None
    num_bytes: int
    fast_prompts: bool = False
    has_checkpoints: bool = True
    max_text_tokens: int | None = None

    def settings(self, settings: EngineSettings) -> EngineSettings:
        """Return the same settings with this choice applied."""
        if self.cache_type is None:
            return replace(settings, max_text_tokens=self.max_text_tokens)
        checkpoint_bytes = settings.checkpoint_bytes if self.has_checkpoints else 0
        return replace(
            settings, kv_cache=self.cache_type, fast_prompts=self.fast_prompts, checkpoint_bytes=checkpoint_bytes
        )


def needs_of(
    bundle: SignedManifest, settings: EngineSettings, *, graph: bytes = b"", forms: FormBytes | None = None
) -> tuple[Need, ...]:
    """List the ways in which a model can be loaded, the best answers first: each later one takes less memory.

    `graph` is the content of model.onnx; without it no way has fast prompts, the manifest tells of keys and values, but
    nothing of states, and a text model is taken to have no long texts. `forms`: the memory of weights that were
    prepared for Lantern's kernels.
    """
    forms = forms or FormBytes()
    weights = bundle.manifest.loaded_bytes if forms.answers is None else forms.answers
    spec = bundle.manifest.model
    if not isinstance(spec, DecoderSpec):
        return tuple(_text_needs(weights + _SCRATCH_BYTES, graph, spec))
    computing = _SCRATCH_BYTES + (_DEVICE_BYTES if settings.use_device and accelerators() else 0)
    layout = _layout(graph, spec)
    needs = tuple(
        Need(cache_type, weights + slots_bytes(layout, spec, settings, cache_type) + computing)
        for cache_type in _cache_types(bundle, spec, settings)
    )
    if settings.fast_prompts:
        of_prompts = int8_product_bytes(graph) if forms.prompts is None else forms.prompts
        first = Need(needs[0].cache_type, needs[0].num_bytes + of_prompts, fast_prompts=True)
        needs = (first, *needs) if of_prompts else needs
    saved = checkpoints_bytes(layout, spec, settings)
    if saved:
        needs = (*needs, replace(needs[-1], num_bytes=needs[-1].num_bytes - saved, has_checkpoints=False))
    assert all(a.num_bytes > b.num_bytes for a, b in pairwise(needs))
    return needs


def needed_bytes(bundle: SignedManifest, settings: EngineSettings, *, graph: bytes = b"") -> int:
    """Return the least bytes for a model: weights, keys and values and states of every slot, and scratch."""
    return needs_of(bundle, settings, graph=graph)[-1].num_bytes


def slots_bytes(layout: SlotLayout, spec: DecoderSpec, settings: EngineSettings, cache_type: CacheType) -> int:
    """Compute the bytes of all slots when they are full, of what stands beside them, and of the checkpoints.

    Beside them: the state of a draft, and the copy of a conversation that is being written to the disk.
    """
    capacity = min(settings.context_length, spec.context_length)
    of_a_slot = capacity * layout.token_bytes(cache_type) + layout.state_bytes
    of_drafts = layout.state_bytes  # behind all tokens of one
    on_its_way = 0 if settings.conversations is None else of_a_slot + MOST_STATES * layout.state_bytes
    saved = checkpoints_bytes(layout, spec, settings)
    return settings.num_slots * of_a_slot + of_drafts + on_its_way + saved


def checkpoints_bytes(layout: SlotLayout, spec: DecoderSpec, settings: EngineSettings) -> int:
    """Compute the bytes of the states that are kept within prompts."""
    capacity = min(settings.context_length, spec.context_length)
    limit, num_slots = settings.checkpoint_bytes, settings.num_slots
    return layout.state_bytes * num_places(layout.state_bytes, limit, num_slots=num_slots, capacity=capacity)


def _text_needs(num_bytes: int, graph: bytes, spec: EncoderSpec | RerankerSpec) -> Iterator[Need]:
    """Yield the ways of a text model: with its longest texts, then with texts of half that length, and so on.

    `num_bytes` are those of all ways; scores that need no more than `ATTENTION_BYTES` are among them.
    """
    longest = spec.max_tokens
    while (more := _scores_bytes(graph, longest) - ATTENTION_BYTES) > 0:
        yield Need(None, num_bytes + more, max_text_tokens=longest)
        if longest // 2 < _SHORTEST_TEXT:
            return
        longest //= 2
    yield Need(None, num_bytes, max_text_tokens=longest)


def _scores_bytes(graph: bytes, max_tokens: int) -> int:
    """Return the bytes of a text model's scores; none for a graph that cannot be read."""
    with contextlib.suppress(ModelError):  # told by the trial, or when the model is loaded
        return text_scores_bytes(graph, max_tokens, MAX_TOKENS_PER_RUN)
    return 0


def _layout(graph: bytes, spec: DecoderSpec) -> SlotLayout:
    """Return the arrays of a slot as the graph declares them; as the manifest does without a graph that can be read."""
    with contextlib.suppress(ModelError):  # told by the trial, or when the model is loaded
        layout = layout_of(graph)
        if layout.kv or layout.states:
            return layout
    shapes = [shape for layer in range(spec.num_layers) if (shape := spec.kv_shape_of(layer)) is not None]
    vectors = [SlotArray("", "", np.dtype(spec.kv_cache_dtype), shape) for shape in shapes]
    return SlotLayout(tuple(vector for vector in vectors for _ in range(2)))


def _cache_types(bundle: SignedManifest, spec: DecoderSpec, settings: EngineSettings) -> tuple[CacheType, ...]:
    """Return the types to try: int8 alone for a bundle that is made for it, else those that the settings allow."""
    if spec.kv_cache_dtype == "int8":
        return ("int8",)
    if not bundle.has(KV_SCALES_NAME) or settings.kv_cache == "float32":
        return ("float32",)
    return ("int8",) if settings.kv_cache == "int8" else ("float32", "int8")
