"""The beginnings that prompts have in common: who computes one, who waits for it, and where a state is kept for it."""

from __future__ import annotations

from collections.abc import Iterable

from appliance.engine.archive import Archive
from appliance.engine.checkpoints import DISTANCE, borders_of, with_border
from appliance.engine.moves import SlotMove
from appliance.engine.slots import Claim, SlotPool, shared_prefix
from appliance.engine.types import Request, Sequence

# Shared tokens for which a prompt waits until another one has computed them; fewer where a state is kept for it there.
_WORTH_WAITING, _WORTH_WAITING_FOR_A_STATE = 64, 32


class Prefixes:
    """The claims of sequences on what the slots hold; owned by the engine thread."""

    def __init__(self, pool: SlotPool, *, has_state: bool, archive: Archive | None = None) -> None:
        """Start with empty slots; `has_state`: of a model with recurrent layers, whose slots cannot be cut back."""
        self._pool = pool
        self._archive = archive
        self._has_state = has_state

    def waits(self, request: Request, prompts: Iterable[Sequence]) -> bool:
        """Return True if a long prefix of a prompt is about to be computed by another one, or to come back."""
        if request.scores_prompt:
            return False
        num_here = self._pool.num_reusable(request.prompt, request.cache_key)
        if self._archive is not None and self._archive.is_reading(request, num_here):
            return True
        others = [other for other in prompts if other.request.cache_key == request.cache_key]
        if not others:
            return False
        shared = [shared_prefix(other.request.prompt, request.prompt) for other in others]
        worth = _WORTH_WAITING_FOR_A_STATE if self._has_state else _WORTH_WAITING
        if max(shared) < num_here + worth:
            return False
        return not self._has_state or self._will_keep_a_state(others, shared, request)

    def claim(self, sequence: Sequence) -> Claim | None:
        """Take a slot for a waiting sequence, which begins behind the tokens that the slot has; None without a slot."""
        request = sequence.request
        if self._archive is not None:
            self._bring_back(request.id, self._archive)
        claim = self._pool.claim(request.id, request.prompt, _cache_key(request))
        if claim is None:
            return None
        if self._archive is not None and claim.given_up is not None:
            self._archive.keep(claim.given_up)
        sequence.has_slot = True
        sequence.num_computed = sequence.num_at_checkpoint = claim.num_cached
        if self._keeps_states_of(request):
            sequence.borders = borders_of(sequence.num_prompt, claim.num_cached, (claim.num_shared, *request.borders))
        return claim

    def checkpoint(self, sequence: Sequence) -> tuple[SlotMove, ...]:
        """Keep the state at which a run of this sequence has ended, if that is due."""
        num_computed = sequence.num_computed
        is_border = num_computed in sequence.borders
        sequence.borders = [border for border in sequence.borders if border > num_computed]
        if not is_border and num_computed - sequence.num_at_checkpoint < DISTANCE:
            return ()
        if not self._keeps_states_of(sequence.request):
            return ()
        sequence.num_at_checkpoint = num_computed
        return self._pool.keep_state(sequence.request.id, is_border=is_border)

    def _bring_back(self, request_id: str, archive: Archive) -> None:
        """Give a slot to the conversation that was read for a request, if one was."""
        found = archive.arrived(request_id)
        if found is None:
            return
        given_up = self._pool.vacate()
        if given_up is not None:
            archive.keep(given_up)
        slot = self._pool.adopt(found.cache_key, found.tokens, found.lengths)
        if slot is not None:
            archive.fill(slot)

    def _will_keep_a_state(self, others: list[Sequence], shared: list[int], request: Request) -> bool:
        """Let a prompt under way keep its state where the request parts from it; False if it is past that already."""
        num_shared, other = max(zip(shared, others, strict=True), key=lambda pair: pair[0])
        at = min(num_shared, len(request.prompt) - 2, other.num_prompt - 2)
        if not self._keeps_states_of(other.request) or at < other.num_computed + 2:
            return False
        other.borders = with_border(other.borders, at)
        return True

    def _keeps_states_of(self, request: Request) -> bool:
        return self._pool.keeps_states and not request.scores_prompt


def _cache_key(request: Request) -> str:
    """Return the key of the prefix cache; a request that scores its prompt needs all logits, and shares nothing."""
    return f"scored {request.id}" if request.scores_prompt else request.cache_key
