"""The JSON of a continuation, or the chunks of a stream, which have the same form (CreateCompletionResponse)."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.server.chat_response import FINGERPRINT
from appliance.server.choice import LEAST_LOGPROB, Choice, TextPiece, TokenRecord
from appliance.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt to be shown: its text, its tokens, and how many of them in front are the tokenizer's own."""

    text: str
    tokens: tuple[int, ...]
    num_framing: int


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

    def whole(self, choice: Choice, echo: Echo | None, pieces: list[TextPiece]) -> dict[str, Any]:
        """One finished choice, behind its prompt where that is echoed."""
        text = "".join(piece.text for piece in pieces)
        records = [record for piece in pieces for record in piece.logprobs]
        if echo is None:
            return self._part(choice, text, self._logprobs(records, 0), choice.finish_reason)
        logprobs = _joined(self._echoed(choice, echo), self._logprobs(records, len(echo.text)))
        return self._part(choice, echo.text + text, logprobs, choice.finish_reason)

    async def chunks(self, choice: Choice, echo: Echo | None) -> AsyncIterator[dict[str, Any]]:
        """The echoed prompt, the text as it comes, then the finish reason."""
        offset = len(echo.text) if echo is not None else 0
        waiting = echo
        if waiting is not None and self.num_logprobs is None:
            yield self.object([self._part(choice, waiting.text, None, None)])
            waiting = None
        async for piece in choice.pieces():
            if waiting is not None:
                yield self.object([self._part(choice, waiting.text, self._echoed(choice, waiting), None)])
                waiting = None
            if piece.text or piece.logprobs:
                yield self.object([self._part(choice, piece.text, self._logprobs(piece.logprobs, offset), None)])
                offset += sum(self._num_characters(record) for record in piece.logprobs)
        if waiting is not None:
            yield self.object([self._part(choice, waiting.text, self._echoed(choice, waiting), None)])
        yield self.object([self._part(choice, "", self._logprobs([], offset), choice.finish_reason)])

    def _part(
        self, choice: Choice, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> dict[str, Any]:
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _echoed(self, choice: Choice, echo: Echo) -> dict[str, Any] | None:
        """The prompt's tokens as they were written; nothing is known of how likely the first one was."""
        if self.num_logprobs is None:
            return None
        first, *rest = echo.tokens[echo.num_framing :] or (None,)
        found = self._logprobs(choice.prompt_records[len(choice.prompt_records) - len(rest) :], 0)
        if first is None or found is None:
            return found
        if echo.num_framing:  # there was something before the first one, so it has a probability, too
            return self._logprobs(choice.prompt_records[echo.num_framing - 1 :], 0)
        num_first = _num_beginning(self.tokenizer.token_bytes(first))
        shifted = [offset + num_first for offset in found["text_offset"]]
        head = {"tokens": [self._text(first)], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}
        return _joined(head, {**found, "text_offset": shifted})

    def _logprobs(self, records: Sequence[TokenRecord], offset: int) -> dict[str, Any] | None:
        if self.num_logprobs is None:
            return None
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
        return _num_beginning(self.tokenizer.token_bytes(record.token)) - (record.start < 0)


def _num_beginning(data: bytes) -> int:
    return sum(byte & 0xC0 != 0x80 for byte in data)


def _joined(a: dict[str, Any] | None, b: dict[str, Any] | None) -> dict[str, Any] | None:
    """Two pieces of OpenAI's four lists."""
    return {name: a[name] + b[name] for name in a} if a is not None and b is not None else None
