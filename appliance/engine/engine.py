"""Continuous batching: each step plans, runs, samples and commits; one thread owns all of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from appliance.engine.drafter import Draft, Drafter
from appliance.engine.model_runner import ModelRunner
from appliance.engine.sampler import sample, score
from appliance.engine.scheduler import ChunkTurn, DecodeTurn, Scheduler
from appliance.engine.slots import RowCopy, RowMove, SlotPool, shared_prefix
from appliance.engine.types import EngineStats, FinishReason, Request, Sequence, StepOutput, StepPlan, TokenLogprobs

_NO_ROWS = np.empty(0, np.int64)
_WORTH_WAITING = 64  # shared tokens for which a prompt waits until another one has computed them


class Engine:
    """Requests in, one StepOutput per sampled token out. Not thread-safe: see loop.py."""

    def __init__(
        self,
        runner: ModelRunner,
        scheduler: Scheduler | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner = runner
        self._clock = clock
        self._drafter = Drafter(runner.stepwise_width) if runner.stepwise_width else None
        self._scheduler = scheduler or Scheduler()
        self._pool = SlotPool(runner.num_rows)
        self._num_resting = 0
        self._num_steps = 0
        self._num_prompt_tokens = 0
        self._num_cached_tokens = 0
        self._num_generated_tokens = 0
        self._num_drafted_tokens = 0
        self._num_accepted_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether step() would do anything."""
        return self._scheduler.has_work

    def rest_slots(self, num_slots: int) -> None:
        """From now on leave so many slots empty, but one; who runs goes on."""
        self._num_resting = min(num_slots, self._pool.num_rows - 1)

    def add(self, request: Request) -> None:
        """Queue a request whose prompt and max_tokens together fit into a row."""
        self._scheduler.add(Sequence(request, list(request.prompt)))

    def cancel(self, request_id: str) -> None:
        """Forget a request at once; its row is free for the next step."""
        sequence = self._scheduler.remove(request_id)
        if sequence is not None and sequence.has_row:
            self._release(request_id)

    def step(self) -> list[StepOutput]:
        """Admit who fits, run the model once, and say what it brought.

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
                return outputs
        self._num_steps += 1
        return outputs

    def stats(self) -> EngineStats:
        """Counts so far; safe to read from another thread, since each is one integer."""
        return EngineStats(
            num_slots=self._pool.num_rows,
            num_running=self._scheduler.num_running,
            num_waiting=self._scheduler.num_waiting,
            num_steps=self._num_steps,
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_tokens=self._num_cached_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_drafted_tokens=self._num_drafted_tokens,
            num_accepted_tokens=self._num_accepted_tokens,
        )

    def _admit(self) -> list[StepOutput]:
        """Rows for those who wait, in order; the outputs tell them that they run and what was cached."""
        outputs = []
        for sequence in self._scheduler.waiting():
            if not self._pool.has_idle_row or self._scheduler.num_running + self._num_resting >= self._pool.num_rows:
                break
            request = sequence.request
            if self._waits_for_a_prefix(request):
                continue
            claim = self._pool.claim(request.id, request.prompt, _cache_key(request))
            if claim is None:
                break
            self._move(claim.moves)
            sequence.has_row = True
            sequence.num_computed = claim.num_cached
            self._num_prompt_tokens += sequence.num_prompt
            self._num_cached_tokens += claim.num_cached
            self._scheduler.start_prompt(sequence)
            outputs.append(StepOutput(request.id, None, num_cached_tokens=claim.num_cached))
        return outputs

    def _waits_for_a_prefix(self, request: Request) -> bool:
        """Whether a prompt under way is about to compute much of what this one begins with."""
        if request.scores_prompt:
            return False
        others = [s.request for s in self._scheduler.prompts() if s.request.cache_key == request.cache_key]
        if not others:
            return False
        shared = max(shared_prefix(other.prompt, request.prompt) for other in others)
        return shared >= self._pool.num_reusable(request.prompt, request.cache_key) + _WORTH_WAITING

    def _run_chunk(self, sequence: Sequence, num_tokens: int) -> list[StepOutput]:
        start = sequence.num_computed
        tokens = sequence.tokens[start : start + num_tokens]
        is_last = num_tokens == sequence.num_pending
        is_scored = sequence.request.scores_prompt and not sequence.is_decoding
        owner = sequence.request.id
        last_row = np.array([num_tokens - 1], np.int64) if is_last else _NO_ROWS
        plan = StepPlan(
            first_row=self._pool.row_of(owner),
            input_ids=np.array([tokens], np.int64),
            past_lens=np.array([start], np.int32),
            logit_rows=np.arange(num_tokens) if is_scored else last_row,
            variant="answer" if sequence.is_decoding else "prompt",
        )
        begin_s = self._clock()
        logits = self._runner.run(plan)
        if not (sequence.is_decoding or is_scored):
            self._scheduler.chunk_took(num_tokens, self._clock() - begin_s)
        scores = self._score(sequence, start, logits) if is_scored else []
        sequence.num_computed += num_tokens
        self._pool.extend(owner, tokens)
        if not is_last:
            return scores
        if not sequence.is_decoding:
            self._scheduler.start_decoding(sequence)
            self._move(self._pool.start_decoding(owner))
        return scores + self._commit(sequence, logits[-1])

    def _score(self, sequence: Sequence, start: int, logits: NDArray[np.float32]) -> list[StepOutput]:
        """The prompt's tokens that follow those of a chunk, with their log probabilities."""
        request = sequence.request
        following = request.prompt[start + 1 : start + 1 + len(logits)]
        num_top = request.params.num_logprobs or 0
        return [
            StepOutput(request.id, token, None, score(row, token, num_top), is_prompt=True)
            for row, token in zip(logits, following, strict=False)
        ]

    def _run_decode(self) -> list[StepOutput]:
        sequences = [self._scheduler.decoding(owner) for owner in self._pool.decoding_owners()]
        draft = self._draft(sequences[0]) if len(sequences) == 1 else None
        if draft is not None:
            return self._run_draft(sequences[0], draft)
        begin_s = self._clock()
        logits = self._runner.run(
            StepPlan(
                first_row=0,
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
        return [output for i, s in enumerate(sequences) for output in self._commit(s, logits[i])]

    def _draft(self, sequence: Sequence) -> Draft | None:
        """What may follow a sequence that decodes alone, where a longer step fits into its row."""
        width = self._runner.stepwise_width
        if self._drafter is None or width is None or sequence.num_computed + width > self._runner.capacity:
            return None
        room = sequence.request.params.max_tokens - sequence.num_generated - 1
        return self._drafter.draft(sequence.request.id, sequence.tokens, room)

    def _run_draft(self, sequence: Sequence, draft: Draft) -> list[StepOutput]:
        """Compute the draft in one step, and commit token by token as far as it is what would have been said anyway."""
        width, drafter = self._runner.stepwise_width, self._drafter
        assert width is not None
        assert drafter is not None
        known = [sequence.tokens[-1], *draft.tokens]
        begin_s = self._clock()
        logits = self._runner.run(
            StepPlan(
                first_row=0,
                input_ids=np.array([known + [0] * (width - len(known))], np.int64),
                past_lens=np.array([sequence.num_computed], np.int32),
                logit_rows=np.arange(len(known)),
                variant="stepwise",
            )
        )
        seconds = self._clock() - begin_s
        outputs: list[StepOutput] = []
        num_right = 0
        for i, token in enumerate(known):
            sequence.num_computed += 1
            self._pool.extend(sequence.request.id, [token])
            outputs += self._commit(sequence, logits[i])
            is_right = sequence.num_pending == 1 and sequence.tokens[-1:] == known[i + 1 : i + 2]
            if outputs[-1].finish_reason is not None or not is_right:
                break
            num_right += 1
        drafter.tried(draft, num_right, seconds)
        self._num_drafted_tokens += len(draft.tokens)
        self._num_accepted_tokens += num_right
        return outputs

    def _commit(self, sequence: Sequence, logits: NDArray[np.float32]) -> list[StepOutput]:
        """Sample, append what follows, and free the row in the step that finishes."""
        request = sequence.request
        if not request.params.max_tokens:
            return [self._finish(sequence, None, FinishReason.LENGTH)]
        constraint = request.constraint
        if constraint is not None:
            constraint.apply(logits)
            if constraint.error is not None:
                return [self._finish(sequence, None, FinishReason.CONSTRAINT)]
        token, logprobs = sample(logits, sequence)
        if token in request.params.stop_token_ids:
            return [self._finish(sequence, None, FinishReason.STOP)]
        tokens = [token]
        if constraint is not None:
            constraint.accept(token)
            # Log probabilities are asked of every token, so that each has to be sampled.
            tokens += constraint.forced() if request.params.num_logprobs is None else []
        room = request.params.max_tokens - sequence.num_generated
        is_cut = len(tokens) > room
        del tokens[room:]
        sequence.tokens += tokens
        self._num_generated_tokens += len(tokens)
        outputs = [StepOutput(request.id, t) for t in tokens[:-1]]
        reason = FinishReason.LENGTH if is_cut else self._reason_to_end(sequence)
        if reason is not None:
            return [*outputs, self._finish(sequence, tokens[-1], reason, logprobs)]
        return [*outputs, StepOutput(request.id, tokens[-1], None, logprobs)]

    def _reason_to_end(self, sequence: Sequence) -> FinishReason | None:
        request = sequence.request
        if request.constraint is not None and request.constraint.is_complete:
            return FinishReason.STOP
        return FinishReason.LENGTH if sequence.num_generated >= request.params.max_tokens else None

    def _finish(
        self, sequence: Sequence, token: int | None, reason: FinishReason, logprobs: TokenLogprobs | None = None
    ) -> StepOutput:
        self._scheduler.remove(sequence.request.id)
        self._release(sequence.request.id)
        return StepOutput(sequence.request.id, token, reason, logprobs)

    def _release(self, request_id: str) -> None:
        self._move(self._pool.release(request_id))
        if self._drafter is not None:
            self._drafter.forget(request_id)

    def _move(self, moves: tuple[RowMove, ...]) -> None:
        for move in moves:
            if isinstance(move, RowCopy):
                self._runner.copy_row(move.source, move.target, move.num_tokens)
            else:
                self._runner.swap_rows(move.a, move.b, move.num_tokens)


def _cache_key(request: Request) -> str:
    """Whose rows a request may find; one that scores its prompt finds none, since it needs every token's logits."""
    return f"scored {request.id}" if request.scores_prompt else request.cache_key
