"""The decoder graph under onnxruntime, bound to the memory of the K/V cache: a step plan becomes logits.

The graph that every decoder bundle holds:

inputs   input_ids (B, S) int64; seqlens_k (B,) int32, tokens in the slot after the step less one;
         total_sequence_length () int32; logit_rows (R,) int64, rows of the flattened B * S tokens;
         the arrays of the slots (graphs/slot_arrays.py): keys and values, and the states of recurrent layers
outputs  logits (R, V) float32; the arrays again, in the same memory

The verify graph (graphs/variants.py) has S = `verify_width`; its lengths are those of the first token. The graph for
prompts (graphs/prompt.py) takes B = 1. A state has no lengths: a model that has one takes rows of equal length only. A
state is zeros where a step begins with the first token of a slot; a verify run leaves it as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle import DecoderSpec
from appliance.engine.checkpoints import num_places
from appliance.engine.graphs.slot_arrays import GraphInput, SlotLayout, slot_layout
from appliance.engine.graphs.variants import present_names
from appliance.engine.runtime.draft_states import DraftStates
from appliance.engine.runtime.gpu_kv_cache import DeviceKVCache
from appliance.engine.runtime.kv_cache import BoundSlots, KVCache
from appliance.engine.runtime.model_file import ModelFile
from appliance.engine.runtime.recurrence import in_place_fault, multi_token_fault
from appliance.engine.runtime.slot_state import SlotState
from appliance.engine.types import StepPlan, StepVariant
from appliance.errors import ModelError

_LOGGER = logging.getLogger(__name__)

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int8)": "int8"}


class OrtModelRunner:
    """A decoder on onnxruntime; used by one thread at a time."""

    def __init__(
        self,
        model: ModelFile,
        spec: DecoderSpec,
        *,
        num_slots: int,
        capacity: int,
        num_threads: int,
        spinning: bool = False,
        checkpoint_bytes: int = 0,
    ) -> None:
        """Load the graph and reserve the cache (its pages are touched only as slots fill).

        `checkpoint_bytes`: the most memory for states that are kept beside those of the slots.

        Raises:
            ModelError: the file is not such a graph, or onnxruntime cannot run it.
        """
        try:
            session = model.session(num_threads, spinning=spinning)
            verify = model.verify_session(num_threads, spinning=spinning)
            replay = model.replay_session(num_threads, spinning=spinning)
            prompt = model.prompt_session(num_threads, spinning=spinning)
        except Exception as err:
            raise ModelError(f"{model.path.name} cannot be loaded: {_first_line(err)}") from err
        self._sessions: dict[StepVariant, ort.InferenceSession] = {"answer": session, "prompt": prompt or session}
        layout = _layout_of(session)
        self._verify_width = None
        self._drafts = None
        if verify is not None and _can_draft(layout, replay):
            self._sessions["verify"] = verify
            self._verify_width = model.verify_width
            self._drafts = None if replay is None else DraftStates(verify, replay)
        self._cache = _cache_of(model, layout, num_slots, capacity)
        num_checkpoints = num_places(layout.state_bytes, checkpoint_bytes, num_slots=num_slots, capacity=capacity)
        self._state = _state_of(layout, num_slots, num_checkpoints, has_drafts=self._drafts is not None)
        self._vocab_size = spec.vocab_size
        self._bindings: dict[tuple[int, int, StepVariant], ort.IOBinding] = {}
        self._bound: tuple[NDArray[np.generic], ...] = ()

    @property
    def num_slots(self) -> int:
        """Return the number of slots of the K/V cache."""
        return self._cache.num_slots

    @property
    def capacity(self) -> int:
        """Return the number of tokens that a slot holds."""
        return self._cache.capacity

    @property
    def vocab_size(self) -> int:
        """Return V."""
        return self._vocab_size

    @property
    def verify_width(self) -> int | None:
        """Return S of a plan for the verify graph; None without such a graph."""
        return self._verify_width

    @property
    def num_checkpoints(self) -> int | None:
        """Return the number of states that can be kept; None for a model without recurrent state."""
        return None if self._state is None else self._state.num_places

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        """See ModelRunner.run; deterministic, and no slot's result depends on its neighbours."""
        num_slots, num_new = plan.input_ids.shape
        is_verify = plan.variant == "verify"
        total = plan.past_lens + np.int32(1 if is_verify else num_new)  # of the first token, or of all
        if self._state is not None:
            for slot in (plan.past_lens == 0).nonzero()[0].tolist():
                self._state.clear(plan.first_slot + slot)
        binding = self._binding(plan.first_slot, num_slots, plan.variant)
        feeds: dict[str, NDArray[np.generic]] = {
            "input_ids": np.ascontiguousarray(plan.input_ids),
            "seqlens_k": (total - 1).astype(np.int32),
            "total_sequence_length": np.asarray(total.max(), np.int32),
            "logit_rows": np.ascontiguousarray(plan.logit_rows),
        }
        logits = np.empty((len(plan.logit_rows), self._vocab_size), np.float32)
        # The binding keeps raw pointers only: what is bound has to live until the next run.
        self._bound = (*feeds.values(), logits)
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, _address(array))
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, _address(logits))
        try:
            self._sessions[plan.variant].run_with_iobinding(binding)
        except Exception as err:
            raise ModelError(f"the model failed in a step: {_first_line(err)}") from err
        return logits

    def accept_draft(self, slot: int, num_tokens: int) -> None:
        """See ModelRunner.accept_draft.

        Raises:
            ModelError: the state is undefined from here on.
        """
        if self._state is None:
            return
        assert self._drafts is not None
        if num_tokens == self._verify_width:
            self._state.take_verified(slot)
            return
        try:
            verified = self._binding(slot, 1, "verify")
            self._drafts.replay(verified, self._state.bound_slots(slot, 1), num_tokens)
        except Exception as err:
            raise ModelError(f"the model failed after a draft: {_first_line(err)}") from err

    def copy_slot(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of one slot over another."""
        self._cache.copy_slot(source, target, num_tokens)
        if self._state is not None:
            self._state.copy_slot(source, target)

    def swap_slots(self, a: int, b: int, num_tokens: int) -> None:
        """Exchange the first tokens of two slots."""
        self._cache.swap_slots(a, b, num_tokens)
        if self._state is not None:
            self._state.swap_slots(a, b)

    def keep_state(self, slot: int, place: int) -> None:
        """Copy the state of a slot to a place."""
        assert self._state is not None
        self._state.keep(slot, place)

    def restore_state(self, place: int, slot: int) -> None:
        """Copy the state of a place to a slot."""
        assert self._state is not None
        self._state.restore(place, slot)

    def slot_arrays(self, slot: int, num_tokens: int) -> dict[str, NDArray[np.generic]] | None:
        """Return views of all that a slot with so many tokens holds; None where a GPU holds it."""
        if isinstance(self._cache, DeviceKVCache):
            return None
        states = {} if self._state is None else self._state.slot(slot)
        return {**self._cache.slot(slot, num_tokens), **states}

    def state_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return views of the state of the first slot, which has the form of every one."""
        return {} if self._state is None else self._state.slot(0)

    def place_arrays(self, place: int) -> dict[str, NDArray[np.generic]]:
        """Return views of the state in a place."""
        assert self._state is not None
        return self._state.place(place)

    def _binding(self, first_slot: int, num_slots: int, variant: StepVariant) -> ort.IOBinding:
        key = (first_slot, num_slots, variant)
        if key not in self._bindings:
            self._bindings[key] = binding = self._sessions[variant].io_binding()
            if variant == "verify" and self._drafts is not None:
                self._drafts.watch(binding)
            outputs = [output.name for output in self._sessions[variant].get_outputs()]
            for slots in self._bound_slots(first_slot, num_slots):
                binding.bind_input(slots.past, slots.device, 0, slots.dtype, slots.shape, slots.address)
            for slots in self._bound_slots(first_slot, num_slots, is_verified=variant == "verify"):
                for present in present_names(slots.present, outputs):
                    binding.bind_output(present, slots.device, 0, slots.dtype, slots.shape, slots.address)
        return self._bindings[key]

    def _bound_slots(self, first_slot: int, num_slots: int, *, is_verified: bool = False) -> Iterator[BoundSlots]:
        """Yield the memory of slots; `is_verified`: that which a verify run writes."""
        yield from self._cache.bound_slots(first_slot, num_slots)
        if self._state is not None:
            yield from self._state.verified_slot() if is_verified else self._state.bound_slots(first_slot, num_slots)


def _layout_of(session: ort.InferenceSession) -> SlotLayout:
    """Return the arrays of a slot, as the loaded graph declares them."""
    return slot_layout(GraphInput(i.name, i.shape, _DTYPES.get(i.type)) for i in session.get_inputs())


def _cache_of(model: ModelFile, layout: SlotLayout, num_slots: int, capacity: int) -> KVCache | DeviceKVCache:
    """Reserve keys and values on the device that computes the model."""
    if model.device is None:
        return KVCache(layout.kv, num_slots=num_slots, capacity=capacity)
    try:
        return DeviceKVCache(layout, num_slots=num_slots, capacity=capacity, provider=model.device.provider)
    except ModelError:
        raise
    except Exception as err:
        raise ModelError(f"keys and values do not fit on the device: {_first_line(err)}") from err


def _can_draft(layout: SlotLayout, replay: ort.InferenceSession | None) -> bool:
    """Return True if drafts can be verified: always without states, with them if they can be replayed exactly."""
    if not layout.states:
        return True
    fault = multi_token_fault()
    if fault is not None:
        _LOGGER.info("There are no drafts: %s of several tokens at once has other bits than one by one", fault)
    return replay is not None and fault is None


def _state_of(layout: SlotLayout, num_slots: int, num_checkpoints: int, *, has_drafts: bool) -> SlotState | None:
    """Reserve states, which the graph's operators write over those that they read."""
    if layout.states and (fault := in_place_fault()) is not None:
        raise ModelError(f"onnxruntime {ort.__version__} does not write a state in place here: {fault} is wrong")
    if not layout.states:
        return None
    return SlotState(layout.states, num_slots=num_slots, num_places=num_checkpoints, has_drafts=has_drafts)


def _address(array: NDArray[np.generic]) -> int:
    """Return the address of the first element; `array.ctypes` makes two objects for it, in each step."""
    address: int = array.__array_interface__["data"][0]
    return address


def _first_line(err: Exception) -> str:
    return str(err).strip().splitlines()[0][:300] if str(err).strip() else type(err).__name__
