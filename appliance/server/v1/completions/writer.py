"""The JSON of a completion: one object, or the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from appliance.server.v1.choice import CompletionReader, TextPiece
from appliance.server.v1.completions.logprobs import joined, logprob_lists, num_characters, prompt_logprob_lists
from appliance.server.v1.completions.response import (
    Completion,
    CompletionChoice,
    CompletionChunk,
    CompletionChunkChoice,
    CompletionLogprobs,
)
from appliance.server.v1.response import FINGERPRINT, CompletionUsage, Timings
from appliance.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt to show: its text, its tokens, and how many of the first ones the tokenizer added."""

    text: str
    tokens: tuple[int, ...]
    num_framing: int


@dataclass(slots=True)
class Continuation:
    """One choice of an answer, with the prompt before it if that is echoed; owned by the handler.

    `num_characters` is the length of the text that was streamed so far.
    """

    reader: CompletionReader
    echo: Echo | None
    is_begun: bool = False
    num_characters: int = 0


@dataclass(frozen=True, slots=True)
class CompletionWriter:
    """The fields that all objects of one answer share, and the objects."""

    model: str
    tokenizer: Tokenizer
    num_logprobs: int | None
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created_s: int = field(default_factory=lambda: int(time.time()))

    def completion(self, choices: list[CompletionChoice], usage: CompletionUsage, timings: Timings) -> Completion:
        """Return the whole answer."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
            "usage": usage,
            "timings": timings,
        }

    def choice(self, index: int, continuation: Continuation, pieces: Sequence[TextPiece]) -> CompletionChoice:
        """Return one finished choice."""
        finish_reason = pieces[-1].finish_reason
        assert finish_reason is not None
        echo = continuation.echo
        prompt = echo.text if echo is not None else ""
        logprobs = self._logprobs(pieces, len(prompt))
        if logprobs is not None and echo is not None:
            logprobs = joined(self._prompt_logprobs(continuation.reader, echo), logprobs)
        text = prompt + "".join(piece.text for piece in pieces)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def chunks(self, continuation: Continuation, piece: TextPiece) -> Iterator[CompletionChunk]:
        """Yield the chunks of a piece of one choice: the echoed prompt with the first, the end with the last one."""
        index, echo = continuation.reader.index, continuation.echo
        if echo is not None and not continuation.is_begun:
            logprobs = self._prompt_logprobs(continuation.reader, echo) if self.num_logprobs is not None else None
            yield self._chunk([{"index": index, "text": echo.text, "logprobs": logprobs, "finish_reason": None}])
            continuation.num_characters = len(echo.text)
        continuation.is_begun = True
        if piece.text or piece.logprobs:
            logprobs = self._logprobs([piece], continuation.num_characters)
            yield self._chunk([{"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": None}])
            continuation.num_characters += sum(num_characters(record, self.tokenizer) for record in piece.logprobs)
        if piece.finish_reason is not None:
            logprobs = self._logprobs([], continuation.num_characters)
            yield self._chunk(
                [{"index": index, "text": "", "logprobs": logprobs, "finish_reason": piece.finish_reason}]
            )

    def usage_chunk(self, usage: CompletionUsage, timings: Timings) -> CompletionChunk:
        """Return the chunk without choices that closes a stream with usage."""
        return {**self._chunk([]), "usage": usage, "timings": timings}

    def _chunk(self, choices: list[CompletionChunkChoice]) -> CompletionChunk:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }

    def _logprobs(self, pieces: Sequence[TextPiece], offset: int) -> CompletionLogprobs | None:
        if self.num_logprobs is None:
            return None
        return logprob_lists([record for piece in pieces for record in piece.logprobs], self.tokenizer, offset)

    def _prompt_logprobs(self, reader: CompletionReader, echo: Echo) -> CompletionLogprobs:
        return prompt_logprob_lists(echo.tokens, echo.num_framing, reader.prompt_records, self.tokenizer)
