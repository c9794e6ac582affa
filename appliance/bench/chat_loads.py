"""The loads of a chat model: one stream, eight streams, the second turn, repeated text, a schema."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass

from appliance.bench.client import Answer
from appliance.bench.figures import Metric, percentile
from appliance.bench.loads import Load, Values
from appliance.bench.probe import Target, user
from appliance.bench.prompts import TokenRate, sentences, words

NUM_STREAMS = 8
_STREAM_PROMPT_TOKENS = 128
_HISTORY_TOKENS = 480
_PASSAGE_WORDS = 90  # more than an answer repeats

_SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "category": {"enum": ["house", "garden", "street", "market"]},
        "description": {"type": "string", "maxLength": 120},
        "is_available": {"type": "boolean"},
        "quantity_in_stock": {"type": "integer", "minimum": 0, "maximum": 999},
        "supplier": {
            "type": "object",
            "properties": {"company_name": {"type": "string", "maxLength": 40}, "country_code": {"enum": ["DE", "FR"]}},
            "required": ["company_name", "country_code"],
            "additionalProperties": False,
        },
    },
    "required": ["title", "category", "description", "is_available", "quantity_in_stock", "supplier"],
    "additionalProperties": False,
}
_RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "record", "schema": _SCHEMA, "strict": True}}


@dataclass(frozen=True, slots=True)
class ChatLoads:
    """Builds the loads for prompts of this token rate; `num_tokens` are generated for one speed."""

    rate: TokenRate
    num_tokens: int = 64
    num_stream_tokens: int = 96

    def one_stream(self, context: int) -> Load:
        """Measure one stream whose context is `context` tokens in the middle of its answer."""

        async def run(target: Target, seed: int) -> Values:
            answer = await target.chat(
                [user(self._prompt(context - self.num_tokens // 2, context, seed))], self.num_tokens
            )
            return answer.rate, answer.first_token_s * 1000

        return Load(
            (
                Metric("stream", f"one stream, context {context}", "tok/s"),
                Metric(
                    "stream", f"first token, prompt of {context - self.num_tokens // 2}", "ms", lower_is_better=True
                ),
            ),
            run,
        )

    def many_streams(self) -> Load:
        """Measure streams that begin together; all their output, and each one's wait for its first token."""

        async def run(target: Target, seed: int) -> Values:
            begin_s = time.perf_counter()
            prompts = [self._prompt(_STREAM_PROMPT_TOKENS, "streams", i, seed) for i in range(NUM_STREAMS)]
            answers = await _together([target.chat([user(p)], self.num_stream_tokens) for p in prompts])
            span_s = max(a.last_event_s for a in answers) - begin_s
            first_ms = [a.first_token_s * 1000 for a in answers]
            return sum(a.num_tokens for a in answers) / span_s, percentile(first_ms, 50), percentile(first_ms, 95)

        name = f"{NUM_STREAMS} streams of {_STREAM_PROMPT_TOKENS} + {self.num_stream_tokens}"
        return Load(
            (
                Metric("streams", f"{name}, all output", "tok/s"),
                Metric("streams", f"{NUM_STREAMS} streams, first token p50", "ms", lower_is_better=True),
                Metric("streams", f"{NUM_STREAMS} streams, first token p95", "ms", lower_is_better=True),
            ),
            run,
        )

    def second_turn(self) -> Load:
        """Measure the first token of an answer whose history the server has just computed."""

        async def run(target: Target, seed: int) -> Values:
            history = [user(self._prompt(_HISTORY_TOKENS, "turn", seed))]
            answer = await target.chat(history, 24, may_end=True)
            question = user(f"And now another question about the {words(12, 'question', seed)}?")
            turns = [*history, {"role": "assistant", "content": answer.text}, question]
            return ((await target.chat(turns, 2)).first_token_s * 1000,)

        return Load((Metric("turn", "second turn, first token", "ms", lower_is_better=True),), run)

    def repeated_text(self) -> Load:
        """Measure an answer that repeats its prompt, next to a plain one from a prompt as long."""

        async def run(target: Target, seed: int) -> Values:
            passage = sentences(_PASSAGE_WORDS, "repeat", seed)
            asked = [
                user(f"Repeat this text, word for word:\n\n{passage}"),
                {"role": "assistant", "content": passage},
                user("Repeat it once more, word for word."),
            ]
            repeat = await target.chat(asked, self.num_stream_tokens)
            plain_prompt = words(2 * _PASSAGE_WORDS, "plain", seed)
            plain = await target.chat(
                [user(f"Tell a long story with these words: {plain_prompt}")], self.num_stream_tokens
            )
            return repeat.rate, _quotient(repeat.rate, plain.rate), repeated_share(repeat.text, passage) * 100

        return Load(
            (
                Metric("repeat", "text that repeats its prompt", "tok/s"),
                Metric("repeat", "the same against plain text", "x"),
                Metric("repeat", "of its words from the prompt", "%"),
            ),
            run,
        )

    def schema(self) -> Load:
        """Measure an answer constrained by a JSON Schema, next to a free one to the same prompt."""

        async def run(target: Target, seed: int) -> Values:
            asked = [user(f"Describe one thing as a JSON record. It is about: {words(30, 'schema', seed)}")]
            held = await target.chat(asked, self.num_stream_tokens, may_end=True, response_format=_RESPONSE_FORMAT)
            free = await target.chat(asked, self.num_stream_tokens)
            return held.rate, _quotient(held.rate, free.rate)

        return Load(
            (Metric("schema", "held to a JSON Schema", "tok/s"), Metric("schema", "the same against free text", "x")),
            run,
        )

    def _prompt(self, num_tokens: int, *seed: object) -> str:
        return words(self.rate.words_for(num_tokens), *seed)


def repeated_share(answer: str, passage: str) -> float:
    """Return the part of the answer's words that occur, with the two before them, somewhere in the passage."""
    known = passage.split()
    triples = set(zip(known, known[1:], known[2:], strict=False))
    said = answer.split()
    found = [triple in triples for triple in zip(said, said[1:], said[2:], strict=False)]
    return sum(found) / len(found) if found else 0.0


async def _together(chats: Sequence[Coroutine[None, None, Answer]]) -> list[Answer]:
    """Return all answers; an error is raised once every stream is over."""
    results = await asyncio.gather(*chats, return_exceptions=True)
    answers: list[Answer] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        answers.append(result)
    return answers


def _quotient(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None
