"""The JSON of a continuation, or the chunks of a stream, which have the same form (CreateCompletionResponse)."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from appliance.server.chat_response import FINGERPRINT
from appliance.server.choice import LEAST_LOGPROB, Choice, TextPiece, TokenRecord
from appliance.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class CompletionAnswer:
    """What all objects of one answer share."""

    model: str
    tokenizer: Tokenizer
    num_logprobs: int | None
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created_s: int = field(default_factory=lambda: int(time.time()))

    def object(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """A `text_completion`."""
        body: dict[str, Any] = {"id": self.id, "object": "text_completion", "created": self.created_s}
        body |= {"model": self.model, "system_fingerprint": FINGERPRINT, "choices": choices}
        return {**body, "usage": usage} if usage is not None else body

    def choice(
        self, choice: Choice, text: str, pieces: list[TextPiece], offset: int, finish_reason: str | None
    ) -> dict[str, Any]:
        """One choice, whole or in part; `offset`: characters before the first token of these pieces."""
        records = [r for p in pieces for r in p.logprobs]
        logprobs = self._logprobs(records, offset) if self.num_logprobs is not None else None
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    async def chunks(self, choice: Choice, echo: str) -> AsyncIterator[dict[str, Any]]:
        """The echoed prompt, the text as it comes, then the finish reason."""
        offset = len(echo)
        if echo:
            yield self.object([self.choice(choice, echo, [], 0, None)])
        async for piece in choice.pieces():
            if piece.text or piece.logprobs:
                yield self.object([self.choice(choice, piece.text, [piece], offset, None)])
                offset += sum(self._num_characters(record) for record in piece.logprobs)
        yield self.object([self.choice(choice, "", [], offset, choice.finish_reason)])

    def _logprobs(self, records: list[TokenRecord], offset: int) -> dict[str, Any]:
        offsets = []
        for record in records:
            offsets.append(offset)
            offset += self._num_characters(record)
        return {
            "tokens": [self._text(r.token) for r in records],
            "token_logprobs": [max(r.logprobs.logprob, LEAST_LOGPROB) for r in records],
            "top_logprobs": [self._top(r.logprobs.top) for r in records],
            "text_offset": offsets,
        }

    def _top(self, top: Iterable[tuple[int, float]]) -> dict[str, float]:
        return {self._text(token): max(logprob, LEAST_LOGPROB) for token, logprob in top}

    def _text(self, token: int) -> str:
        """A token that is a part of a character is written as OpenAI writes it: `bytes:` and its bytes."""
        data = self.tokenizer.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _num_characters(self, record: TokenRecord) -> int:
        """The characters that begin in a token; a continuation byte (RFC 3629) begins none."""
        data = self.tokenizer.token_bytes(record.token)
        return sum(byte & 0xC0 != 0x80 for byte in data) - (record.start < 0)
