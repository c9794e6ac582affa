"""The slots of the K/V cache: their owners, and the tokens that idle ones still hold. Moves are returned, not made.

Decoding slots are always `[0, num_decoding)`, because a decode step runs over neighbouring slots; prompts under way and
idle slots lie behind them. A released slot keeps its tokens: the next prompt with the same prefix starts there. For a
model with recurrent state it starts where the slot's state stands, or at the slot's last checkpoint within the prefix.

A prompt that goes on where the prompt of an idle slot ended is the same chat's, whose last answer may stand in the
history without its reasoning: it takes the slot in place. One that parts from it earlier is another conversation or a
branch, and the tokens behind the prefix may be wanted again. Copying a token costs a small part of computing it, so the
prefix is copied into an empty slot if there is one. Without one, the slot is taken in place if that keeps more than it
forgets; else the least recently used slot gives way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from appliance.engine.checkpoints import TAIL, Checkpoint, Held, weakest
from appliance.engine.moves import SlotCopy, SlotMove, SlotSwap, StateKeep, StateRestore

_COMPARE = 128  # tokens compared at once


@dataclass(frozen=True, slots=True)
class Claim:
    """A slot for a prompt, whose first `num_cached` tokens are in it once the moves are made.

    `num_shared`: the tokens that the prompt has in common with a slot, of which no state may have been kept.
    `given_up`: what another conversation had in that slot; it is there until the moves are made.
    """

    num_cached: int
    moves: tuple[SlotMove, ...]
    num_shared: int
    given_up: IdleSlot | None = None


@dataclass(frozen=True, slots=True)
class IdleSlot:
    """A slot that no sequence uses, the tokens in it, and the checkpoints that a continuation may need."""

    index: int
    cache_key: str
    tokens: tuple[int, ...]
    checkpoints: tuple[Checkpoint, ...] = ()


@dataclass(slots=True)
class _Slot:
    owner: str | None = None
    cache_key: str = ""
    tokens: list[int] = field(default_factory=list)
    num_prompt: int = 0  # tokens of the last owner's prompt
    last_used: int = -1
    checkpoints: list[Checkpoint] = field(default_factory=list)  # ascending; the slot's own state is behind its tokens


@dataclass(frozen=True, slots=True)
class _Source:
    """The slot that gives a prompt the most tokens to go on from, and the most tokens that any slot shares with it."""

    slot: int | None
    num_usable: int
    num_shared: int


class SlotPool:
    """The slots, their owners and their tokens; owned by the engine thread."""

    def __init__(self, num_slots: int, num_checkpoints: int | None = None) -> None:
        """Start with empty slots; `num_checkpoints` states can be kept, None for a model without recurrent state."""
        self._num_checkpoints = num_checkpoints
        self._slots = [_Slot() for _ in range(num_slots)]
        self._index: dict[str, int] = {}
        self._num_decoding = 0
        self._clock = 0

    @property
    def num_slots(self) -> int:
        """Return the number of all slots."""
        return len(self._slots)

    @property
    def has_idle_slot(self) -> bool:
        """Return True if a claim can succeed."""
        return len(self._index) < len(self._slots)

    @property
    def keeps_states(self) -> bool:
        """Return True if states are kept at checkpoints."""
        return bool(self._num_checkpoints)

    def slot_of(self, owner: str) -> int:
        """Return the slot of an owner; any call that returns moves may change it."""
        return self._index[owner]

    def decoding_owners(self) -> list[str]:
        """Return the owners of slots `[0, num_decoding)`, in slot order."""
        owners = (slot.owner for slot in self._slots[: self._num_decoding])
        return [owner for owner in owners if owner is not None]

    def num_reusable(self, prompt: Sequence[int], cache_key: str) -> int:
        """Return the length of the longest prefix of a prompt from which a slot can go on."""
        return self._best_source(prompt, cache_key).num_usable

    def idle_slots(self) -> list[IdleSlot]:
        """List the idle slots that hold tokens, the least recently used first; of checkpoints only the borders."""
        slots = sorted(enumerate(self._slots), key=lambda pair: pair[1].last_used)
        return [self._idle(i) for i, slot in slots if slot.owner is None and slot.tokens]

    def vacate(self) -> IdleSlot | None:
        """Empty the least recently used of the idle slots, unless one is empty already; return what it held."""
        idle = [(slot.last_used, i) for i, slot in enumerate(self._slots) if slot.owner is None]
        if not idle or any(not self._slots[i].tokens for _, i in idle):
            return None
        given_up = self._idle(min(idle)[1])
        self._slots[given_up.index] = _Slot()
        return given_up

    def adopt(self, cache_key: str, tokens: Sequence[int], lengths: Iterable[int]) -> IdleSlot | None:
        """Take an empty slot for tokens that were computed elsewhere, with places for states; None without a slot."""
        index = next((i for i, slot in enumerate(self._slots) if slot.owner is None and not slot.tokens), None)
        if index is None:
            return None
        slot = self._slots[index]
        slot.cache_key, slot.tokens, slot.num_prompt = cache_key, list(tokens), len(tokens)
        self._touch(slot)
        for length in lengths if self._num_checkpoints else ():
            slot.checkpoints.append(Checkpoint(self._free_place(), length, is_border=True))
        return IdleSlot(index, cache_key, tuple(tokens), tuple(slot.checkpoints))

    def claim(self, owner: str, prompt: Sequence[int], cache_key: str) -> Claim | None:
        """Take an idle slot for a prompt, with the longest prefix that a slot of the same key holds; None without one.

        At least two tokens are left to compute: a step of one token takes another attention kernel, whose last bits
        differ, and a reused prompt has to give what a fresh one gives.
        """
        idle = [i for i, slot in enumerate(self._slots) if slot.owner is None]
        if not idle:
            return None
        best = self._best_source(prompt, cache_key)
        num_cached = best.num_usable
        target, moves = self._place(best.slot, num_cached, prompt, idle)
        given_up = self._given_up(target, prompt, cache_key)
        if best.slot is not None:
            moves += self._restore(self._slots[best.slot], num_cached, target)
            self._slots[target].checkpoints = self._slots[best.slot].checkpoints[:]
        slot = self._slots[target]
        slot.owner, slot.cache_key, slot.tokens = owner, cache_key, list(prompt[:num_cached])
        slot.num_prompt = len(prompt)
        slot.checkpoints = [known for known in slot.checkpoints if known.num_tokens <= num_cached]
        self._index[owner] = target
        self._touch(slot)
        return Claim(num_cached, moves, best.num_shared, given_up)

    def extend(self, owner: str, tokens: Iterable[int]) -> None:
        """Record that these tokens are in the owner's slot now."""
        slot = self._slots[self._index[owner]]
        slot.tokens.extend(tokens)
        self._touch(slot)

    def keep_state(self, owner: str, *, is_border: bool) -> tuple[SlotMove, ...]:
        """Make a checkpoint at the end of the owner's tokens; another one gives way if there is no place."""
        slot = self._slots[self._index[owner]]
        num_tokens = len(slot.tokens)
        if slot.checkpoints and slot.checkpoints[-1].num_tokens == num_tokens:
            return ()
        place = self._free_place()
        slot.checkpoints.append(Checkpoint(place, num_tokens, is_border))
        return (StateKeep(self._index[owner], place),)

    def start_decoding(self, owner: str) -> tuple[SlotMove, ...]:
        """Move a slot whose prompt is computed to the end of the decoding slots."""
        moves = self._exchange(self._index[owner], self._num_decoding)
        self._num_decoding += 1
        return moves

    def release(self, owner: str) -> tuple[SlotMove, ...]:
        """Give the slot back, its tokens kept for reuse, and close the hole among the decoding slots."""
        index = self._index[owner]
        moves: tuple[SlotMove, ...] = ()
        if index < self._num_decoding:
            self._num_decoding -= 1
            moves = self._exchange(index, self._num_decoding)
        self._slots[self._index.pop(owner)].owner = None
        return moves

    def _idle(self, i: int) -> IdleSlot:
        slot = self._slots[i]
        borders = tuple(known for known in slot.checkpoints if known.is_border)
        return IdleSlot(i, slot.cache_key, tuple(slot.tokens), borders)

    def _given_up(self, target: int, prompt: Sequence[int], cache_key: str) -> IdleSlot | None:
        """Return what a prompt overwrites in a slot, unless it goes on with the chat in it."""
        slot = self._slots[target]
        goes_on = slot.cache_key == cache_key and self._is_the_same_chat(slot, prompt)
        return None if goes_on or not slot.tokens else self._idle(target)

    def _is_the_same_chat(self, slot: _Slot, prompt: Sequence[int]) -> bool:
        return shared_prefix(slot.tokens, prompt) >= min(slot.num_prompt, len(slot.tokens)) - TAIL

    def _touch(self, slot: _Slot) -> None:
        self._clock += 1
        slot.last_used = self._clock

    def _best_source(self, prompt: Sequence[int], cache_key: str) -> _Source:
        limit = max(0, len(prompt) - 2)
        best, most_shared = _Source(None, 0, 0), 0
        for i, slot in enumerate(self._slots):
            if slot.cache_key == cache_key:
                shared = min(shared_prefix(slot.tokens, prompt), limit)
                most_shared = max(most_shared, shared)
                num_usable = self._usable(slot, shared)
                if num_usable > best.num_usable:
                    best = _Source(i, num_usable, shared)
        return best if most_shared == best.num_shared else replace(best, num_shared=most_shared)

    def _usable(self, slot: _Slot, num_shared: int) -> int:
        """Return the length from which a prompt goes on that shares so many tokens with a slot."""
        if self._num_checkpoints is None or num_shared == len(slot.tokens):
            return num_shared
        return max((known.num_tokens for known in slot.checkpoints if known.num_tokens <= num_shared), default=0)

    def _restore(self, source: _Slot, num_tokens: int, target: int) -> tuple[SlotMove, ...]:
        """Return the move that gives the target the state of a checkpoint, if the source's own state is not the one."""
        if self._num_checkpoints is None or num_tokens == len(source.tokens):
            return ()
        place = next(known.place for known in source.checkpoints if known.num_tokens == num_tokens)
        return (StateRestore(place, target),)

    def _free_place(self) -> int:
        """Return a place that no slot needs; the weakest checkpoint is forgotten where all are needed."""
        assert self._num_checkpoints
        taken = {known.place for slot in self._slots for known in slot.checkpoints}
        free = next((place for place in range(self._num_checkpoints) if place not in taken), None)
        if free is not None:
            return free
        given_up = weakest(Held(slot.checkpoints, slot.last_used) for slot in self._slots)
        for slot in self._slots:
            slot.checkpoints = [known for known in slot.checkpoints if known is not given_up]
        return given_up.place

    def _place(
        self, source: int | None, num_cached: int, prompt: Sequence[int], idle: list[int]
    ) -> tuple[int, tuple[SlotMove, ...]]:
        """Return the slot to take, as the module's docstring tells, and the moves of the prefix."""
        order = sorted(
            idle, key=lambda i: (bool(self._slots[i].tokens), self._slots[i].last_used, i)
        )  # empty ones first
        if source is None:
            return order[0], ()
        others = [i for i in order if i != source]
        if source in idle and not (
            others and self._is_worth_a_copy(self._slots[source], num_cached, prompt, others[0])
        ):
            return source, ()
        self._touch(self._slots[source])
        return others[0], (SlotCopy(source, others[0], num_cached),)

    def _is_worth_a_copy(self, source: _Slot, num_cached: int, prompt: Sequence[int], target: int) -> bool:
        """Return True if an idle source keeps its tokens, and the prompt goes on in the target."""
        if self._is_the_same_chat(source, prompt):
            return False
        return not self._slots[target].tokens or len(source.tokens) > 2 * num_cached

    def _exchange(self, a: int, b: int) -> tuple[SlotMove, ...]:
        if a == b:
            return ()
        slots = self._slots
        len_a, len_b = len(slots[a].tokens), len(slots[b].tokens)
        slots[a], slots[b] = slots[b], slots[a]
        for i in (a, b):
            owner = slots[i].owner
            if owner is not None:
                self._index[owner] = i
        if not len_a and not len_b:
            return ()
        if not len_b:
            return (SlotCopy(a, b, len_a),)
        if not len_a:
            return (SlotCopy(b, a, len_b),)
        return (SlotSwap(a, b, max(len_a, len_b)),)


def shared_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the number of tokens that two sequences have in common at their beginning."""
    end = min(len(a), len(b))
    start = 0
    while start < end and list(a[start : start + _COMPARE]) == list(b[start : start + _COMPARE]):
        start += _COMPARE
    start = min(start, end)
    while start < end and a[start] == b[start]:
        start += 1
    return start
