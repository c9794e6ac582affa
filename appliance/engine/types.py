"""The values that cross the engine's borders. Frozen ones cross threads; Sequence belongs to the engine thread."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from appliance.engine.constraint import Constraint


class FinishReason(enum.Enum):
    """Why a sequence ended; the values are OpenAI's."""

    STOP = "stop"
    LENGTH = "length"
    CONSTRAINT = "constraint"  # the grammar cannot go on, by its own limits


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Temperature 0 is greedy; the defaults are OpenAI's."""

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
    """One prompt to be continued. `cache_key` names whose cached prefixes it may reuse.

    The constraint, where there is one, belongs to the engine from the moment the request is submitted. `scores_prompt`:
    log probabilities of the prompt's own tokens are wanted too, for which all of it is computed.
    """

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    cache_key: str = ""
    constraint: Constraint | None = None
    scores_prompt: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms: of the chosen token, and of the most likely ones, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step brought to one request: a token, the end, or both.

    The first output has neither: the request has got a row, and `num_cached_tokens` of its prompt were in it.
    A stop token ends the sequence without being part of it. `is_prompt`: the token is one of the prompt, from its
    second on, with the log probabilities that were asked for.
    """

    request_id: str
    token: int | None
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = None
    num_cached_tokens: int | None = None
    is_prompt: bool = False


@dataclass(eq=False, slots=True)
class Sequence:
    """A request under way; owned by the engine thread.

    `tokens` is the prompt and what was generated; the first `num_computed` of them are in its K/V row, if it has one.
    """

    request: Request
    tokens: list[int]
    has_row: bool = False
    num_computed: int = 0

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt)

    @property
    def num_generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens that are known but not yet in the cache."""
        return len(self.tokens) - self.num_computed

    @property
    def is_decoding(self) -> bool:
        """Whether the prompt is computed."""
        return self.num_generated > 0


StepVariant = Literal["answer", "prompt", "stepwise"]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One run of the model over B neighbouring K/V rows with S new tokens each (B = 1 or S = 1).

    `input_ids` (B, S) int64; `past_lens` (B,) int32, tokens already in each row; rows are
    `[first_row, first_row + B)`; `logit_rows` (R,) int64, indices into the B * S tokens whose logits are wanted.
    `variant`: the graph that computes it. "answer" is any model's own; "prompt" computes the tokens of one row that
    nobody has to say, and may be another arithmetic; "stepwise" has B = 1, S is the runner's `stepwise_width`, and each
    token gets what a step of its own with "answer" would have.
    """

    first_row: int
    input_ids: NDArray[np.int64]
    past_lens: NDArray[np.int32]
    logit_rows: NDArray[np.int64]
    variant: StepVariant = "answer"

    @property
    def num_rows(self) -> int:
        """B."""
        return int(self.input_ids.shape[0])

    @property
    def num_new_tokens(self) -> int:
        """B * S."""
        return int(self.input_ids.size)


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
