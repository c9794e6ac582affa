"""The JSON of an answer: one object, or the chunks of a stream (CreateChatCompletionResponse and its chunk)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.server.chat_events import Delta, MessageReader, joined
from appliance.server.choice import Choice, TokenRecord, logprob_entry
from appliance.text.tokenizer import Tokenizer

FINGERPRINT = "fp_lantern"


@dataclass(frozen=True, slots=True)
class Answer:
    """What all objects of one answer share."""

    model: str
    tokenizer: Tokenizer
    with_logprobs: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created_s: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, Any]) -> dict[str, Any]:
        """A `chat.completion`."""
        return {**self._head("chat.completion"), "choices": choices, "usage": usage}

    def choice(self, reader: MessageReader, deltas: list[Delta]) -> dict[str, Any]:
        """One finished choice."""
        return {
            "index": reader.choice.index,
            "message": joined(deltas),
            "logprobs": self._logprobs([r for d in deltas for r in d.logprobs]),
            "finish_reason": reader.finish_reason,
        }

    def chunk(self, index: int, delta: Delta, finish_reason: str | None = None) -> dict[str, Any]:
        """A `chat.completion.chunk` with one choice."""
        choice = {
            "index": index,
            "delta": delta.fields,
            "logprobs": self._logprobs(delta.logprobs) if delta.logprobs else None,
            "finish_reason": finish_reason,
        }
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk without choices that closes a stream with usage."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "service_tier": "default",
        }

    def _logprobs(self, records: Sequence[TokenRecord]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        return {"content": [logprob_entry(r, self.tokenizer) for r in records], "refusal": None}


def usage_of(num_prompt_tokens: int, choices: Iterable[Choice], num_reasoning_tokens: int = 0) -> dict[str, Any]:
    """Tokens of the prompt, once, and of all choices together."""
    all_choices = list(choices)
    num_completion = sum(c.num_tokens for c in all_choices)
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_completion,
        "total_tokens": num_prompt_tokens + num_completion,
        "prompt_tokens_details": {"cached_tokens": max(c.num_cached_tokens for c in all_choices), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": num_reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
