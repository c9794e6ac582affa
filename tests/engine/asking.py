"""Requests to an engine in this process, and their answers."""

from __future__ import annotations

import random

from appliance.engine.engine import Engine
from appliance.engine.types import Request, Sampled, SamplingParams
from tests.engine.hybrid import VOCAB_SIZE


def a_text(seed: int, length: int) -> list[int]:
    """Return random tokens."""
    return random.Random(seed).choices(range(1, VOCAB_SIZE), k=length)


def a_request(name: str, prompt: list[int], *, num_new: int = 20, temperature: float = 0.0, seed: int = 0) -> Request:
    """Return a request of a prompt for `num_new` tokens."""
    return Request(name, tuple(prompt), SamplingParams(temperature=temperature, seed=seed, max_tokens=num_new))


def answers_of(engine: Engine, *requests: Request) -> dict[str, list[int]]:
    """Add the requests, and return their answers when all are done."""
    for request in requests:
        engine.add(request)
    answers: dict[str, list[int]] = {request.id: [] for request in requests}
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, Sampled):
                answers[output.request_id].append(output.token)
    return answers


def num_read(engine: Engine) -> int:
    """Return the tokens of prompts that were computed, by the engine's own counters."""
    return engine.stats().num_prompt_tokens - engine.stats().num_cached_tokens
