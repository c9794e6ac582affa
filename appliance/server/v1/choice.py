"""One choice of a generation: tokens become pieces of text, with the finish reason and the counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from appliance.engine.types import Admitted, Finished, FinishReason, Output, PromptScored, Sampled, TokenLogprobs
from appliance.errors import InvalidRequestError
from appliance.text.detokenizer import Detokenizer
from appliance.text.tokenizer import Tokenizer

TextFinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token with the byte of the completion at which it begins."""

    token: int
    start: int
    logprobs: TokenLogprobs


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that no stop string can reach any more, and the log probabilities of the tokens that begin in it.

    `num_tokens` are those of the choice so far; the last piece, which may be empty, has the `finish_reason`.
    """

    text: str
    logprobs: tuple[TokenRecord, ...] = ()
    num_tokens: int = 0
    finish_reason: TextFinishReason | None = None


class CompletionReader:
    """The state of one choice while its outputs are read; owned by the handler."""

    def __init__(
        self, index: int, tokenizer: Tokenizer, stops: Sequence[str] = (), *, visible: Sequence[str] = ()
    ) -> None:
        """Begin at the first token; `visible` are the special tokens whose text is part of the completion."""
        self.index = index
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.is_over = False
        self.prompt_records: list[TokenRecord] = []
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer, stops, visible=visible)
        self._is_first = True
        self._held: tuple[TokenRecord, ...] = ()
        self._num_bytes_read = -1 if tokenizer.has_leading_blank else 0  # decoding removes the first blank
        self._num_bytes_shown = 0

    def read(self, output: Output) -> list[TextPiece]:
        """Take the next output; return the text that it completes.

        The first piece, which may be empty, comes with the first token; the last one with a stop string or the end.

        Raises:
            InvalidRequestError: the grammar of the answer has reached its limits.
        """
        match output:
            case Sampled(token=token, logprobs=logprobs):
                return self._read_token(token, logprobs)
            case Admitted(num_cached_tokens=num_cached_tokens):
                self.num_cached_tokens = num_cached_tokens
            case PromptScored(token=token, logprobs=logprobs):
                self.prompt_records.append(TokenRecord(token, 0, logprobs))
            case Finished(reason=FinishReason.CONSTRAINT):
                raise InvalidRequestError("The answer's schema became too complex to follow; make it simpler.")
            case Finished(reason=reason):
                return [self._finish("length" if reason is FinishReason.LENGTH else "stop")]
        return []

    def _read_token(self, token: int, logprobs: TokenLogprobs | None) -> list[TextPiece]:
        self.num_tokens += 1
        if logprobs is not None:
            self._held += (TokenRecord(token, self._num_bytes_read, logprobs),)
        self._num_bytes_read += len(self._tokenizer.token_bytes(token))
        piece = self._show(self._detokenizer.push(token))
        pieces = [piece] if self._is_first or piece.text or piece.logprobs else []
        self._is_first = False
        if self._detokenizer.stopped:
            pieces.append(self._finish("stop"))
        return pieces

    def _finish(self, reason: TextFinishReason) -> TextPiece:
        self.is_over = True
        text = self._detokenizer.finish()
        if not self._detokenizer.stopped:
            self._num_bytes_shown = self._num_bytes_read
        return self._show(text, reason)

    def _show(self, text: str, finish_reason: TextFinishReason | None = None) -> TextPiece:
        """Make a piece with the held records of the tokens that begin within the shown text."""
        self._num_bytes_shown += len(text.encode())
        if not self._held:
            return TextPiece(text, (), self.num_tokens, finish_reason)
        shown = tuple(r for r in self._held if r.start < self._num_bytes_shown)
        self._held = self._held[len(shown) :]
        return TextPiece(text, shown, self.num_tokens, finish_reason)
