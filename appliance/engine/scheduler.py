"""Who advances next: a chunk of one prompt, or one token for everyone who decodes. Pure arithmetic over counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.engine.types import Sequence


@dataclass(frozen=True, slots=True)
class ChunkTurn:
    """The next `num_tokens` of one sequence: of its prompt, or of what a grammar forced."""

    sequence: Sequence
    num_tokens: int


@dataclass(frozen=True, slots=True)
class DecodeTurn:
    """One token for every decoding sequence."""


Turn = ChunkTurn | DecodeTurn


class Scheduler:
    """The queue, the prompts under way and the decoding sequences; owned by the engine thread.

    Prompts and decode steps alternate, so that a running stream waits for one chunk at most. Forced tokens are always
    computed as a chunk, whoever else runs: a step of one token has other last bits, and load must not change an answer.
    """

    def __init__(self, *, chunk_size: int = 128, idle_chunk_size: int = 256) -> None:
        """`chunk_size` bounds the wait of running streams; `idle_chunk_size` is used while none runs."""
        self._chunk_size = chunk_size
        self._idle_chunk_size = idle_chunk_size
        self._waiting: deque[Sequence] = deque()
        self._prompts: deque[Sequence] = deque()
        self._decoding: dict[str, Sequence] = {}
        self._prompt_was_last = False

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything, now or once a row is free."""
        return bool(self._waiting or self._prompts or self._decoding)

    @property
    def num_waiting(self) -> int:
        """Sequences without a row."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences with a row."""
        return len(self._prompts) + len(self._decoding)

    def prompts(self) -> Iterator[Sequence]:
        """Sequences whose prompt is being computed, in the order of their turns."""
        yield from self._prompts

    def waiting(self) -> list[Sequence]:
        """Sequences without a row, first come first."""
        return list(self._waiting)

    def decoding(self, request_id: str) -> Sequence:
        """The decoding sequence of this request."""
        return self._decoding[request_id]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def start_prompt(self, sequence: Sequence) -> None:
        """A waiting sequence has got a row."""
        self._waiting.remove(sequence)
        self._prompts.append(sequence)

    def start_decoding(self, sequence: Sequence) -> None:
        """The prompt is computed and its first token sampled."""
        self._prompts.remove(sequence)
        self._decoding[sequence.request.id] = sequence

    def remove(self, request_id: str) -> Sequence | None:
        """Forget a sequence, wherever it is; None where it already ended."""
        if request_id in self._decoding:
            return self._decoding.pop(request_id)
        for queue in (self._prompts, self._waiting):
            for sequence in queue:
                if sequence.request.id == request_id:
                    queue.remove(sequence)
                    return sequence
        return None

    def next_turn(self) -> Turn | None:
        """Choose; None where nobody has a row."""
        if self._prompts and not (self._decoding and self._prompt_was_last):
            self._prompt_was_last = True
            sequence = self._prompts[0]
            return ChunkTurn(sequence, self._chunk_of(sequence))
        self._prompt_was_last = False
        for sequence in self._decoding.values():
            if sequence.num_pending > 1:
                return ChunkTurn(sequence, self._chunk_of(sequence))
        return DecodeTurn() if self._decoding else None

    def _chunk_of(self, sequence: Sequence) -> int:
        """Tokens of the next chunk; one alone is never left over, see SlotPool.claim."""
        chunk = self._chunk_size if self._decoding else self._idle_chunk_size
        num_tokens = min(chunk, sequence.num_pending)
        return num_tokens - 1 if sequence.num_pending - num_tokens == 1 else num_tokens
