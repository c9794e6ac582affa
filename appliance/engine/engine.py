"""Continuous batching: each step plans, runs, samples and commits; one thread owns all of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from appliance.engine.archive import Archive
from appliance.engine.counts import Counts
from appliance.engine.drafter import Draft, Drafter
from appliance.engine.moves import SlotMove, make_moves
from appliance.engine.places import Places
from appliance.engine.prefixes import Prefixes
from appliance.engine.sampler import sample, score
from appliance.engine.scheduler import ChunkTurn, DecodeTurn, Scheduler
from appliance.engine.slots import SlotPool
from appliance.engine.types import (
    Admitted,
    EngineStats,
    Finished,
    FinishReason,
    ModelRunner,
    Output,
    PromptComputed,
    PromptScored,
    Request,
    Sampled,
    Sequence,
    StepPlan,
)

_NO_LOGITS = np.empty(0, np.int64)


class Engine:
    """Requests in, outputs out: admissions, tokens, ends. Not thread-safe: see loop.py."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        archive: Archive | None = None,
    ) -> None:
        """Start with empty slots; conversations that lose theirs go to the archive, and come back from it."""
        self._runner = runner
        self._clock = clock
        self._drafter = Drafter(runner.verify_width) if runner.verify_width else None
        self._scheduler = scheduler or Scheduler()
        self._pool = SlotPool(runner.num_slots, runner.num_checkpoints)
        self._has_state = runner.num_checkpoints is not None
        self._archive = archive
        self._prefixes = Prefixes(self._pool, has_state=self._has_state, archive=archive)
        self._keeps_states = self._pool.keeps_states
        self._places = Places(clock)
        self._num_resting = 0
        self._counts = Counts()

    @property
    def has_work(self) -> bool:
        """Return True if step() would do anything."""
        return self._scheduler.has_work

    def limit_slots(self, num_slots: int) -> None:
        """Leave this many slots empty from now on, but one; running requests keep theirs."""
        self._num_resting = min(num_slots, self._pool.num_slots - 1)

    @property
    def slots(self) -> SlotPool:
        """Return the slots, for what keeps idle ones elsewhere while no step runs."""
        return self._pool

    def add(self, request: Request) -> None:
        """Queue a request whose prompt and max_tokens together fit into a slot."""
        self._scheduler.add(Sequence(request, list(request.prompt)))
        if request.tells_progress:
            self._places.watch(request.id)

    def cancel(self, request_id: str) -> None:
        """End a request at once; its slot is free for the next step."""
        sequence = self._scheduler.remove(request_id)
        self._places.forget(request_id)
        if self._archive is not None:
            self._archive.forget(request_id)
        if sequence is not None and sequence.has_slot:
            self._release(request_id)

    def step(self) -> list[Output]:
        """Admit waiting requests, run the model once, and return what that brought.

        Raises:
            ModelError: nothing of this engine can be used any more.
        """
        outputs = self._admit()
        turn = self._scheduler.next_turn()
        match turn:
            case ChunkTurn(sequence, num_tokens):
                outputs += self._run_chunk(sequence, num_tokens)
            case DecodeTurn():
                outputs += self._run_decode()
            case None:
                if self._archive is not None and self._scheduler.num_waiting:
                    self._archive.wait()
                return outputs
        self._counts.num_steps += 1
        return outputs

    def stats(self) -> EngineStats:
        """Return the counts so far; safe to read from another thread, since each is one integer."""
        return self._counts.stats(
            num_slots=self._pool.num_slots,
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
        )

    def _admit(self) -> list[Output]:
        """Give idle slots to waiting requests, in order."""
        outputs: list[Output] = []
        for sequence in self._scheduler.waiting():
            if not self._pool.has_idle_slot or self._scheduler.num_running + self._num_resting >= self._pool.num_slots:
                break
            request = sequence.request
            if self._prefixes.waits(request, self._scheduler.prompts()):
                continue
            claim = self._prefixes.claim(sequence)
            if claim is None:
                break
            self._move(claim.moves)
            self._counts.num_prompt_tokens += sequence.num_prompt
            self._counts.num_cached_tokens += claim.num_cached
            self._scheduler.start_prompt(sequence)
            self._places.forget(request.id)
            outputs.append(Admitted(request.id, claim.num_cached, self._clock()))
        if self._places:
            outputs += self._places.changed(self._scheduler.waiting())
        return outputs

    def _run_chunk(self, sequence: Sequence, num_tokens: int) -> list[Output]:
        start = sequence.num_computed
        tokens = sequence.tokens[start : start + num_tokens]
        is_last = num_tokens == sequence.num_pending
        is_scored = sequence.request.scores_prompt and not sequence.is_decoding
        owner = sequence.request.id
        last_row = np.array([num_tokens - 1], np.int64) if is_last else _NO_LOGITS
        plan = StepPlan(
            first_slot=self._pool.slot_of(owner),
            input_ids=np.array([tokens], np.int64),
            past_lens=np.array([start], np.int32),
            logit_rows=np.arange(num_tokens) if is_scored else last_row,
            variant="answer" if sequence.is_decoding else "prompt",
        )
        begin_s = self._clock()
        logits = self._runner.run(plan)
        if not (sequence.is_decoding or is_scored):
            self._scheduler.chunk_took(num_tokens, self._clock() - begin_s)
        outputs = self._score(sequence, start, logits) if is_scored else []
        sequence.num_computed += num_tokens
        if sequence.request.tells_progress and not sequence.is_decoding:
            outputs.append(PromptComputed(owner, sequence.num_computed, self._clock()))
        self._pool.extend(owner, tokens)
        if self._keeps_states:
            self._move(self._prefixes.checkpoint(sequence))
        if not is_last:
            return outputs
        if not sequence.is_decoding:
            self._scheduler.start_decoding(sequence)
            self._move(self._pool.start_decoding(owner))
        return outputs + self._commit(sequence, logits[-1])

    def _score(self, sequence: Sequence, start: int, logits: NDArray[np.float32]) -> list[Output]:
        """Return the tokens of the prompt that follow those of a chunk, with their log probabilities."""
        request = sequence.request
        following = request.prompt[start + 1 : start + 1 + len(logits)]
        num_top = request.params.num_logprobs or 0
        return [
            PromptScored(request.id, token, score(row, token, num_top), self._clock())
            for row, token in zip(logits, following, strict=False)
        ]

    def _run_decode(self) -> list[Output]:
        sequences = [self._scheduler.decoding(owner) for owner in self._pool.decoding_owners()]
        draft = self._draft(sequences[0]) if len(sequences) == 1 else None
        if draft is not None:
            return self._run_draft(sequences[0], draft)
        begin_s = self._clock()
        logits = self._runner.run(
            StepPlan(
                first_slot=0,
                input_ids=np.array([s.tokens[-1:] for s in sequences], np.int64),
                past_lens=np.array([s.num_computed for s in sequences], np.int32),
                logit_rows=np.arange(len(sequences)),
            )
        )
        if self._drafter is not None and len(sequences) == 1:
            self._drafter.stepped(self._clock() - begin_s)
        for sequence in sequences:
            sequence.num_computed += 1
            self._pool.extend(sequence.request.id, sequence.tokens[-1:])
            if self._keeps_states:
                self._move(self._prefixes.checkpoint(sequence))
        return [output for i, s in enumerate(sequences) for output in self._commit(s, logits[i])]

    def _draft(self, sequence: Sequence) -> Draft | None:
        """Guess the next tokens of a sequence that decodes alone; None if a longer step would not pay or not fit."""
        width = self._runner.verify_width
        if self._drafter is None or width is None or sequence.num_computed + width > self._runner.capacity:
            return None
        room = sequence.request.params.max_tokens - sequence.num_generated - 1
        return self._drafter.draft(sequence.request.id, sequence.tokens, room)

    def _run_draft(self, sequence: Sequence, draft: Draft) -> list[Output]:
        """Verify a draft in one step; commit its tokens up to the first one that single steps would not have given."""
        width, drafter = self._runner.verify_width, self._drafter
        assert width is not None
        assert drafter is not None
        known = [sequence.tokens[-1], *draft.tokens]
        begin_s = self._clock()
        logits = self._runner.run(
            StepPlan(
                first_slot=0,
                input_ids=np.array([known + [0] * (width - len(known))], np.int64),
                past_lens=np.array([sequence.num_computed], np.int32),
                logit_rows=np.arange(len(known)),
                variant="verify",
            )
        )
        seconds = self._clock() - begin_s
        outputs: list[Output] = []
        num_right = i = 0
        for i, token in enumerate(known):
            sequence.num_computed += 1
            self._pool.extend(sequence.request.id, [token])
            outputs += self._commit(sequence, logits[i])
            is_right = sequence.num_pending == 1 and sequence.tokens[-1:] == known[i + 1 : i + 2]
            if isinstance(outputs[-1], Finished) or not is_right:
                break
            num_right += 1
        if self._has_state:
            begin_s = self._clock()
            self._runner.accept_draft(0, i + 1)  # a sequence that has just ended has left its tokens in this slot
            seconds += self._clock() - begin_s
            if self._keeps_states and not isinstance(outputs[-1], Finished):
                self._move(self._prefixes.checkpoint(sequence))
        drafter.tried(draft, num_right, seconds)
        self._counts.num_drafted_tokens += len(draft.tokens)
        self._counts.num_accepted_tokens += num_right
        return outputs

    def _commit(self, sequence: Sequence, logits: NDArray[np.float32]) -> list[Output]:
        """Sample, append the tokens, and free the slot in the step that finishes."""
        request = sequence.request
        if not request.params.max_tokens:
            return [self._finish(sequence, FinishReason.LENGTH)]
        constraint = request.constraint
        if constraint is not None:
            constraint.apply(logits)
            if constraint.error is not None:
                return [self._finish(sequence, FinishReason.CONSTRAINT)]
        token, logprobs = sample(logits, sequence)
        if token in request.params.stop_token_ids:
            return [self._finish(sequence, FinishReason.STOP)]
        tokens = [token]
        if constraint is not None:
            constraint.accept(token)
            if request.params.num_logprobs is None:  # log probabilities need each token to be sampled
                tokens += constraint.fast_forward_tokens()
        room = request.params.max_tokens - sequence.num_generated
        is_cut = len(tokens) > room
        del tokens[room:]
        sequence.tokens += tokens
        self._counts.num_generated_tokens += len(tokens)
        at_s = self._clock()
        outputs: list[Output] = [Sampled(request.id, t, logprobs, at_s) for t in tokens]
        reason = FinishReason.LENGTH if is_cut else self._reason_to_end(sequence)
        if reason is not None:
            outputs.append(self._finish(sequence, reason))
        return outputs

    def _reason_to_end(self, sequence: Sequence) -> FinishReason | None:
        request = sequence.request
        if request.constraint is not None and request.constraint.is_complete:
            return FinishReason.STOP
        return FinishReason.LENGTH if sequence.num_generated >= request.params.max_tokens else None

    def _finish(self, sequence: Sequence, reason: FinishReason) -> Output:
        self._scheduler.remove(sequence.request.id)
        self._release(sequence.request.id)
        return Finished(sequence.request.id, reason, self._clock())

    def _release(self, request_id: str) -> None:
        self._move(self._pool.release(request_id))
        if self._drafter is not None:
            self._drafter.forget(request_id)

    def _move(self, moves: tuple[SlotMove, ...]) -> None:
        make_moves(moves, self._runner)
