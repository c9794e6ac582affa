"""The order of requests for slots, and the next turn: a chunk of one sequence, or one token of each that decodes.

Pure arithmetic over counts and measured times, without a clock and without the model.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from appliance.engine.types import Sequence

_MAX_REMEMBERED_KEYS = 1024
_CHUNK_SIZE, _IDLE_CHUNK_SIZE = 128, 256  # tokens
_SHORTEST_CHUNK = 32
_PATIENCE_S = 0.15
_SMOOTHING = 0.25
_SMALLEST_TOKEN_S = 1e-6
_SCORED_CHUNK_SIZE = 64  # each token has V logits: 12 MB for a vocabulary of 49,152


@dataclass(frozen=True, slots=True)
class ChunkTurn:
    """The next `num_tokens` of one sequence: of its prompt, or of those that a grammar fast-forwarded."""

    sequence: Sequence
    num_tokens: int


@dataclass(frozen=True, slots=True)
class DecodeTurn:
    """One token for every decoding sequence."""


Turn = ChunkTurn | DecodeTurn


class Scheduler:
    """The queue, the prompts under way and the decoding sequences; owned by the engine thread.

    Waiting requests get slots in turn over cache keys, so that one user's flood delays another by one request at most.
    Prompts and decode steps alternate, so that a running stream waits for one chunk at most, and a chunk is as long as
    this board computes in `patience_s`. Of the prompts' turns, every other one goes to the shortest and the rest to the
    oldest: short ones are quick, long ones never starve. Fast-forwarded tokens are always computed as a chunk, under
    any load: a step of one token has other last bits, and load must not change an answer.
    """

    def __init__(
        self,
        *,
        chunk_size: int = _CHUNK_SIZE,
        idle_chunk_size: int = _IDLE_CHUNK_SIZE,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Start with chunks of `chunk_size` while streams run, until a time is known, `idle_chunk_size` at most."""
        self._chunk_size = chunk_size
        self._patience_s = patience_s
        self._token_s: float | None = None
        self._idle_chunk_size = idle_chunk_size
        self._waiting: dict[str, deque[Sequence]] = {}
        self._last_served: OrderedDict[str, None] = OrderedDict()  # keys that got a slot, longest ago first
        self._prompts: list[Sequence] = []
        self._decoding: dict[str, Sequence] = {}
        self._prompt_was_last = False
        self._shortest_was_last = False

    @classmethod
    def within(cls, longest_chunk: int) -> Self:
        """Return a scheduler with chunks of at most this many tokens."""
        return cls(chunk_size=min(_CHUNK_SIZE, longest_chunk), idle_chunk_size=min(_IDLE_CHUNK_SIZE, longest_chunk))

    @property
    def has_work(self) -> bool:
        """Return True if a step would do anything, now or once a slot is free."""
        return bool(self._waiting or self._prompts or self._decoding)

    @property
    def num_waiting(self) -> int:
        """Return the number of sequences without a slot."""
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def num_running(self) -> int:
        """Return the number of sequences with a slot."""
        return len(self._prompts) + len(self._decoding)

    def prompts(self) -> Iterator[Sequence]:
        """Yield the sequences whose prompt is being computed, oldest first."""
        yield from self._prompts

    def waiting(self) -> list[Sequence]:
        """Return the sequences without a slot, in the order in which they should get one: round robin over keys."""
        served = {key: place for place, key in enumerate(self._last_served)}
        keys = sorted(self._waiting, key=lambda key: served.get(key, -1))
        queues = [list(self._waiting[key]) for key in keys]
        depth = max(map(len, queues), default=0)
        return [queue[i] for i in range(depth) for queue in queues if i < len(queue)]

    def decoding(self, request_id: str) -> Sequence:
        """Return the decoding sequence of a request."""
        return self._decoding[request_id]

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.setdefault(sequence.request.cache_key, deque()).append(sequence)

    def start_prompt(self, sequence: Sequence) -> None:
        """Move a waiting sequence that has got a slot to the prompts; its key goes behind the others."""
        key = sequence.request.cache_key
        self._remove_waiting(sequence.request.id)
        self._last_served[key] = None
        self._last_served.move_to_end(key)
        if len(self._last_served) > _MAX_REMEMBERED_KEYS:
            self._last_served.popitem(last=False)
        self._prompts.append(sequence)

    def start_decoding(self, sequence: Sequence) -> None:
        """Move a sequence whose prompt is computed to the decoding ones."""
        self._prompts.remove(sequence)
        self._decoding[sequence.request.id] = sequence

    def chunk_took(self, num_tokens: int, seconds: float) -> None:
        """Fit the chunks to come, while streams run, to the time that a chunk of a prompt took."""
        if num_tokens < _SHORTEST_CHUNK:
            return
        token_s = seconds / num_tokens
        self._token_s = token_s if self._token_s is None else self._token_s + _SMOOTHING * (token_s - self._token_s)
        fitting = int(self._patience_s / max(self._token_s, _SMALLEST_TOKEN_S)) // _SHORTEST_CHUNK * _SHORTEST_CHUNK
        self._chunk_size = min(max(fitting, _SHORTEST_CHUNK), self._idle_chunk_size)

    def remove(self, request_id: str) -> Sequence | None:
        """Remove a sequence from any of the lists; None if it already ended."""
        if request_id in self._decoding:
            return self._decoding.pop(request_id)
        for sequence in self._prompts:
            if sequence.request.id == request_id:
                self._prompts.remove(sequence)
                return sequence
        return self._remove_waiting(request_id)

    def next_turn(self) -> Turn | None:
        """Choose the next turn; None if no sequence has a slot."""
        if self._prompts and not (self._decoding and self._prompt_was_last):
            self._prompt_was_last = True
            sequence = self._next_prompt()
            return ChunkTurn(sequence, self._chunk_of(sequence))
        self._prompt_was_last = False
        for sequence in self._decoding.values():
            if sequence.num_pending > 1:
                return ChunkTurn(sequence, self._chunk_of(sequence))
        return DecodeTurn() if self._decoding else None

    def _next_prompt(self) -> Sequence:
        self._shortest_was_last = not self._shortest_was_last
        if self._shortest_was_last:
            return min(self._prompts, key=lambda sequence: sequence.num_pending)
        return self._prompts[0]

    def _chunk_of(self, sequence: Sequence) -> int:
        """Return the size of the next chunk; one token alone is never left over, see SlotPool.claim."""
        chunk = self._chunk_size if self._decoding else self._idle_chunk_size
        if sequence.request.scores_prompt:
            chunk = min(chunk, _SCORED_CHUNK_SIZE)
        end = sequence.num_to_border
        num_tokens = min(chunk, end)
        return num_tokens - 1 if end - num_tokens == 1 else num_tokens

    def _remove_waiting(self, request_id: str) -> Sequence | None:
        for key, queue in self._waiting.items():
            for sequence in queue:
                if sequence.request.id == request_id:
                    queue.remove(sequence)
                    if not queue:
                        del self._waiting[key]
                    return sequence
        return None
