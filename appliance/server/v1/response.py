"""The parts that the answers of all generating routes share: fingerprint, usage, tokens as text."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from appliance.server.http.wire import EXTENSION, Answer
from appliance.server.v1.generation import Generation, Reading

FINGERPRINT = "fp_lantern"
LEAST_LOGPROB = -9999.0  # OpenAI's log probability of an impossible token; JSON has no infinity


class PromptTokensDetails(Answer):
    """Of the prompt's tokens, those that the prefix cache saved."""

    cached_tokens: int
    audio_tokens: int


class CompletionTokensDetails(Answer):
    """Of the completion's tokens, those that are reasoning."""

    reasoning_tokens: int
    audio_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class CompletionUsage(Answer):
    """Tokens of the prompt, once, and of all choices together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Timings(Answer):
    """The speed of a request, as llama.cpp's server names it; times without the wait for a slot.

    `prompt_n` are the prompt's tokens that were computed, `cache_n` those that the prefix cache saved.
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class PromptProgress(Answer):
    """The progress of a prompt, as llama.cpp's server names it; `processed` includes the `cache`d tokens.

    `time_ms` is the time since the request got its slot.
    """

    total: int
    cache: int
    processed: int
    time_ms: int


ExtraProgress = Annotated[PromptProgress, Field(json_schema_extra=EXTENSION)]
QueuePosition = Annotated[int, Field(ge=1, json_schema_extra=EXTENSION)]
ExtraTimings = Annotated[Timings, Field(json_schema_extra=EXTENSION)]


def progress_of(reading: Reading) -> PromptProgress:
    """Return the progress of a prompt as it is sent."""
    return {
        "total": reading.num_prompt_tokens,
        "cache": reading.num_cached_tokens,
        "processed": reading.num_computed_tokens,
        "time_ms": round(1e3 * reading.elapsed_s),
    }


def timings_of(generation: Generation) -> Timings:
    """Return the speed of a generation that is over; rates are 0 where nothing was measured."""
    record = generation.record
    admitted_s = record.wait_s or 0.0
    first_s = record.first_token_s if record.first_token_s is not None else admitted_s
    last_s = record.last_token_s if record.last_token_s is not None else first_s
    prompt_ms, predicted_ms = 1e3 * max(0.0, first_s - admitted_s), 1e3 * max(0.0, last_s - first_s)
    num_prompt, num_predicted = record.num_prompt_tokens - record.num_cached_tokens, record.num_generated_tokens
    return {
        "cache_n": record.num_cached_tokens,
        "prompt_n": num_prompt,
        "prompt_ms": round(prompt_ms, 3),
        "prompt_per_token_ms": _ratio(prompt_ms, num_prompt),
        "prompt_per_second": _ratio(1e3 * num_prompt, prompt_ms),
        "predicted_n": num_predicted,
        "predicted_ms": round(predicted_ms, 3),
        "predicted_per_token_ms": _ratio(predicted_ms, num_predicted),
        "predicted_per_second": _ratio(1e3 * num_predicted, predicted_ms),
    }


def _ratio(value: float, divisor: float) -> float:
    return round(value / divisor, 3) if divisor else 0.0


def usage_of(generation: Generation, num_reasoning_tokens: int = 0) -> CompletionUsage:
    """Count the tokens of a generation that is over."""
    num_prompt, num_completion = generation.num_prompt_tokens, generation.num_completion_tokens
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt + num_completion,
        "prompt_tokens_details": {"cached_tokens": generation.num_cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": num_reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
