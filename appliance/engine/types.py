"""The values that cross the engine's borders, and its two seams: the model runner and the constraint.

Frozen values cross threads; a Sequence belongs to the engine thread. Nothing here or in the modules beside it loads a
model's runtime or a grammar's.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray


class FinishReason(enum.Enum):
    """The reason why a sequence ended; the values are OpenAI's."""

    STOP = "stop"
    LENGTH = "length"
    CONSTRAINT = "constraint"  # the grammar cannot go on, by its own limits


class Constraint(Protocol):
    """The place of one sequence in a grammar; used by the engine thread once its request is submitted."""

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Set the logits (V,) of every token that the grammar forbids to minus infinity; in place."""

    def accept(self, token: int) -> None:
        """Advance by a token that was sampled."""

    def fast_forward_tokens(self) -> list[int]:
        """Return the tokens that the grammar leaves no choice about, and advance by them."""

    @property
    def is_complete(self) -> bool:
        """Return True if the grammar allows no further token."""

    @property
    def error(self) -> str | None:
        """Return why the grammar cannot go on, None while it can."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The choice of the next token. Temperature 0 is greedy; the defaults are OpenAI's."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    max_tokens: int = 16
    stop_token_ids: frozenset[int] = frozenset()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    num_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete. Requests with the same `cache_key` share the prefix cache.

    The engine owns the constraint from the moment the request is submitted. `scores_prompt` asks for the log
    probabilities of the prompt's own tokens, for which the whole prompt is computed. `borders` are lengths at which
    other prompts may part from this one: a model with recurrent state keeps it there. `tells_progress` asks for the
    outputs Queued and PromptComputed.
    """

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    cache_key: str = ""
    constraint: Constraint | None = None
    scores_prompt: bool = False
    borders: tuple[int, ...] = ()
    tells_progress: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms: of the chosen token, and of the most likely ones, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits for a slot at this place of the queue, of which 1 is the next."""

    request_id: str
    place: int
    at_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request has got a slot, in which `num_cached_tokens` of its prompt were already computed."""

    request_id: str
    num_cached_tokens: int
    at_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class PromptComputed:
    """A chunk of the prompt is computed, with which `num_tokens` of the prompt are."""

    request_id: str
    num_tokens: int
    at_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class PromptScored:
    """A token of the prompt, from its second on, with the log probabilities that were asked for."""

    request_id: str
    token: int
    logprobs: TokenLogprobs
    at_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The next token of the completion."""

    request_id: str
    token: int
    logprobs: TokenLogprobs | None = None
    at_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of the completion; a stop token ends it without being part of it."""

    request_id: str
    reason: FinishReason
    at_s: float = field(default=0.0, compare=False)


Output = Queued | Admitted | PromptComputed | PromptScored | Sampled | Finished
"""What one step brought to one request; `at_s` is monotonic time, taken when the step was over."""


@dataclass(eq=False, slots=True)
class Sequence:
    """A request under way; owned by the engine thread.

    `tokens` holds the prompt and the completion so far; the keys and values of the first `num_computed` are in its
    slot, if it has one. For a model with recurrent state `borders` are the lengths to come at which a run ends, so that
    the state can be kept there, and `num_at_checkpoint` is the length at which one was kept last.
    """

    request: Request
    tokens: list[int]
    has_slot: bool = False
    num_computed: int = 0
    borders: list[int] = field(default_factory=list)
    num_at_checkpoint: int = 0

    @property
    def num_prompt(self) -> int:
        """Return the number of tokens of the prompt."""
        return len(self.request.prompt)

    @property
    def num_generated(self) -> int:
        """Return the number of tokens of the completion so far."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Return the number of tokens that are known but not yet in the cache."""
        return len(self.tokens) - self.num_computed

    @property
    def num_to_border(self) -> int:
        """Return the number of pending tokens before the next border; a border one token away is passed over."""
        if self.borders and self.borders[0] > self.num_computed + 1:
            return self.borders[0] - self.num_computed
        return self.num_pending

    @property
    def is_decoding(self) -> bool:
        """Return True once the prompt is computed."""
        return self.num_generated > 0


StepVariant = Literal["answer", "prompt", "verify"]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One run of the model over B neighbouring K/V slots with S new tokens each (B = 1 or S = 1).

    `input_ids` (B, S) int64; `past_lens` (B,) int32, tokens already in each slot; slots are
    `[first_slot, first_slot + B)`; `logit_rows` (R,) int64, indices into the B * S tokens whose logits are wanted.
    `variant` names the graph. "answer": every model has it. "prompt": the tokens of one prompt, whose arithmetic may
    differ. "verify": B = 1, S is the runner's `verify_width`, and each token gets the bits that a step of its own with
    "answer" would give it; a state stays as it was until `accept_draft`.
    """

    first_slot: int
    input_ids: NDArray[np.int64]
    past_lens: NDArray[np.int32]
    logit_rows: NDArray[np.int64]
    variant: StepVariant = "answer"

    @property
    def num_slots(self) -> int:
        """Return B."""
        return int(self.input_ids.shape[0])


class ModelRunner(Protocol):
    """A model that computes step plans over K/V slots; used by one thread at a time."""

    @property
    def num_slots(self) -> int:
        """Return the number of slots of the K/V cache."""

    @property
    def capacity(self) -> int:
        """Return the number of tokens that a slot holds."""

    @property
    def vocab_size(self) -> int:
        """Return V."""

    @property
    def verify_width(self) -> int | None:
        """Return S of a plan for the verify graph; None without such a graph."""

    @property
    def num_checkpoints(self) -> int | None:
        """Return the number of states that can be kept; None for a model without recurrent state."""

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        """Compute the plan's tokens, writing K/V and states in place; a slot without tokens begins with a zero state.

        Returns:
            Logits (R, V), R = rows asked for; valid until the next call.

        Raises:
            ModelError: the cache is undefined from here on.
        """

    def accept_draft(self, slot: int, num_tokens: int) -> None:
        """Advance a slot's state by the first tokens of the last plan, which was for the verify graph."""

    def copy_slot(self, source: int, target: int, num_tokens: int) -> None:
        """Copy the first tokens of one slot over another, and its state."""

    def swap_slots(self, a: int, b: int, num_tokens: int) -> None:
        """Exchange the first tokens of two slots, and their states."""

    def keep_state(self, slot: int, place: int) -> None:
        """Copy the state of a slot to one of `num_checkpoints` places."""

    def restore_state(self, place: int, slot: int) -> None:
        """Copy the state of a place to a slot."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot for /health, /metrics and the bench; counts since the start unless they name a state."""

    num_slots: int
    num_running: int
    num_waiting: int
    num_steps: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
