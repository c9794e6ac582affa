"""One choice of an answer: a stream of tokens becomes pieces of text, with the end and the counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from appliance.engine.loop import TokenStream
from appliance.engine.types import FinishReason, StepOutput, TokenLogprobs
from appliance.errors import InvalidRequestError, UnavailableError
from appliance.text.detokenizer import Detokenizer
from appliance.text.tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0  # as OpenAI writes a token that could not come; JSON has no infinity


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that is safe to show, and the log probabilities of the tokens that it ends with."""

    text: str
    logprobs: tuple[TokenRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token with the byte of the answer at which it begins."""

    token: int
    start: int
    logprobs: TokenLogprobs


class Choice:
    """Reads one TokenStream to its end; owned by the handler."""

    def __init__(
        self,
        index: int,
        stream: TokenStream,
        tokenizer: Tokenizer,
        stops: tuple[str, ...],
        *,
        max_wait_s: float,
        visible: tuple[str, ...] = (),
    ) -> None:
        """`max_wait_s` from now on there has to be a slot; `visible`: special tokens whose text somebody has to see."""
        self._max_wait_s = max_wait_s
        self._deadline_s = asyncio.get_running_loop().time() + max_wait_s
        self.index = index
        self.finish_reason = "stop"
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self._stream = stream
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, stops, visible=visible)
        self.prompt_records: list[TokenRecord] = []
        self._held: list[TokenRecord] = []
        self._num_bytes_read = -1 if tokenizer.has_leading_blank else 0  # of which decoding takes the first away
        self._num_bytes_shown = 0

    async def begin(self, patience_s: float) -> None:
        """Wait for a slot, but no longer than the patience: a refusal within it can still be a status.

        Raises:
            UnavailableError: the time in which there has to be a slot is over.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(loop.time() + patience_s, self._deadline_s)):
                await self._stream.begun()
                return
        if loop.time() >= self._deadline_s:
            raise UnavailableError(
                f"The server is busy: the request waited {self._max_wait_s:g} s without getting a slot. "
                "Try again later."
            )

    async def pieces(self) -> AsyncIterator[TextPiece]:
        """The answer's text in order; the first piece, maybe empty, comes with the first token.

        Raises:
            UnavailableError: there was no slot in time.
        """
        await self.begin(self._max_wait_s)
        is_first = True
        async for output in self._stream:
            if output.num_cached_tokens is not None:
                self.num_cached_tokens = output.num_cached_tokens
                continue
            if output.is_prompt and output.token is not None and output.logprobs is not None:
                self.prompt_records.append(TokenRecord(output.token, 0, output.logprobs))
                continue
            piece = self._read(output)
            if is_first or piece.text or piece.logprobs:
                is_first = False
                yield piece
            if self._detokenizer.stopped:
                break
        last = self._finish()
        if last.text or last.logprobs:
            yield last

    def _read(self, output: StepOutput) -> TextPiece:
        if output.finish_reason is FinishReason.CONSTRAINT:
            raise InvalidRequestError("The answer's schema became too complex to follow; make it simpler.")
        if output.finish_reason is FinishReason.LENGTH:
            self.finish_reason = "length"
        token = output.token
        if token is None:
            return TextPiece("")
        self.num_tokens += 1
        if output.logprobs is not None:
            self._held.append(TokenRecord(token, self._num_bytes_read, output.logprobs))
        self._num_bytes_read += len(self._tokenizer.token_bytes(token))
        piece = self._show(self._detokenizer.push(token))
        if self._detokenizer.stopped:
            self.finish_reason = "stop"
        return piece

    def _finish(self) -> TextPiece:
        text = self._detokenizer.finish()
        if not self._detokenizer.stopped:
            self._num_bytes_shown = self._num_bytes_read
        return self._show(text)

    def _show(self, text: str) -> TextPiece:
        """What is held of the tokens that begin within the shown text goes with it."""
        self._num_bytes_shown += len(text.encode())
        shown = tuple(r for r in self._held if r.start < self._num_bytes_shown)
        self._held = self._held[len(shown) :]
        return TextPiece(text, shown)


def logprob_entry(record: TokenRecord, tokenizer: Tokenizer) -> dict[str, Any]:
    """One entry of `logprobs.content`."""
    top = [_entry(token, logprob, tokenizer) for token, logprob in record.logprobs.top]
    return {**_entry(record.token, record.logprobs.logprob, tokenizer), "top_logprobs": top}


def _entry(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    data = tokenizer.token_bytes(token)
    return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(data)}
