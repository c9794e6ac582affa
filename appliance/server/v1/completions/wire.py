"""POST /v1/completions as clients write it (OpenAI's CreateCompletionRequest)."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from appliance.server.v1.sampling import MAX_CHOICES, SamplingFields
from appliance.server.v1.tokens import TOKENS_SCHEMA

MAX_PROMPTS = 32

_PROMPT_FORMS: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": {"type": "string"}},
        TOKENS_SCHEMA,
        {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": TOKENS_SCHEMA},
    ]
}


class CompletionsRequest(SamplingFields):
    """The request (OpenAI's CreateCompletionRequest)."""

    prompt: Annotated[str | list[Any], WithJsonSchema(_PROMPT_FORMS)] = ""
    max_tokens: Annotated[int, Field(ge=0)] = 16
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: bool = False
    suffix: Annotated[str | None, WithJsonSchema({"type": "null", "description": "Refused."})] = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None

    @property
    def num_samples(self) -> int:
        """Return the number of completions to sample for each prompt; the `n` best are the answer."""
        return self.best_of if self.best_of is not None else self.n
