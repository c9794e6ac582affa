"""Hooks for schemathesis: requests name installed models and ask for little, so that they get past the first check."""

# mypy: ignore-errors
import os

import schemathesis


def is_good_count(value):
    return value is None or (type(value) in {int, float} and value >= 1 and value == int(value))  # 2.0 is one, too


@schemathesis.hook
def map_body(context, body):
    """Leave the bodies that are wrong on purpose as they are."""
    if not isinstance(body, dict):
        return body
    is_embedding = context.operation.path.endswith("/embeddings")
    if isinstance(body.get("model"), str) and 1 <= len(body["model"]) <= 256:
        body["model"] = os.environ["EMBEDDING_MODEL" if is_embedding else "CHAT_MODEL"]
    for name in () if is_embedding else ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if is_good_count(body.get(name)):
            body[name] = 1
    return body
