"""The JSON of a chat answer: one object, or the chunks of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from appliance.server.v1.chat.logprobs import token_logprob
from appliance.server.v1.chat.message import Delta, MessageReader, joined
from appliance.server.v1.chat.response import (
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatFinishReason,
    ChatLogprobs,
)
from appliance.server.v1.choice import TextPiece, TokenRecord
from appliance.server.v1.response import FINGERPRINT, CompletionUsage, PromptProgress, Timings
from appliance.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatWriter:
    """The fields that all objects of one answer share, and the objects."""

    model: str
    tokenizer: Tokenizer
    with_logprobs: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created_s: int = field(default_factory=lambda: int(time.time()))

    def completion(self, choices: list[ChatChoice], usage: CompletionUsage, timings: Timings) -> ChatCompletion:
        """Return the whole answer."""
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "service_tier": "default",
            "choices": choices,
            "usage": usage,
            "timings": timings,
        }

    def choice(self, message: MessageReader, pieces: Sequence[TextPiece]) -> ChatChoice:
        """Return one choice, read to its end."""
        deltas = [delta for piece in pieces for delta in message.read(piece)]
        assert message.finish_reason is not None
        return {
            "index": message.index,
            "message": joined(deltas),
            "logprobs": self._logprobs([record for delta in deltas for record in delta.logprobs]),
            "finish_reason": message.finish_reason,
        }

    def chunks(self, message: MessageReader, piece: TextPiece) -> Iterator[ChatCompletionChunk]:
        """Yield the chunks of a piece of one choice, and with the last piece that of the finish reason."""
        for delta in message.read(piece):
            yield self._chunk([self._step(message.index, delta, None)])
        if message.finish_reason is not None:
            yield self._chunk([self._step(message.index, Delta({}), message.finish_reason)])

    def place_chunk(self, place: int) -> ChatCompletionChunk:
        """Return the chunk of a request that waits in the queue."""
        return {**self._chunk([self._step(0, Delta({}), None)]), "queue_position": place}

    def progress_chunk(self, progress: PromptProgress) -> ChatCompletionChunk:
        """Return the chunk of a prompt that is being read."""
        return {**self._chunk([self._step(0, Delta({}), None)]), "prompt_progress": progress}

    def usage_chunk(self, usage: CompletionUsage, timings: Timings) -> ChatCompletionChunk:
        """Return the chunk without choices that closes a stream with usage."""
        return {**self._chunk([]), "usage": usage, "timings": timings}

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatCompletionChunk:
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "service_tier": "default",
            "choices": choices,
        }

    def _step(self, index: int, delta: Delta, finish_reason: ChatFinishReason | None) -> ChatChunkChoice:
        return {
            "index": index,
            "delta": delta.fields,
            "logprobs": self._logprobs(delta.logprobs) if delta.logprobs else None,
            "finish_reason": finish_reason,
        }

    def _logprobs(self, records: Sequence[TokenRecord]) -> ChatLogprobs | None:
        if not self.with_logprobs:
            return None
        return {"content": [token_logprob(record, self.tokenizer) for record in records], "refusal": None}
