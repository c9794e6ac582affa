"""Token ids in requests, and the bound on texts that stand for tokens."""

from __future__ import annotations

from typing import Any, TypeGuard

from appliance.errors import InvalidRequestError

MAX_CHARACTERS_PER_TOKEN = 64  # a longer text is too long for a model's context whatever its tokens are

TOKENS_SCHEMA: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"type": "integer"}}


def are_tokens(value: object) -> TypeGuard[list[int]]:
    """Return True for a list of integers that is not empty."""
    return isinstance(value, list) and bool(value) and all(_is_token(item) for item in value)


def no_text_or_tokens(param: str) -> InvalidRequestError:
    """Return the refusal of a value that is neither a string nor a list of tokens."""
    return InvalidRequestError(
        f"Invalid '{param}': a string or a non-empty list of tokens is needed.", param=param, code="invalid_type"
    )


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
