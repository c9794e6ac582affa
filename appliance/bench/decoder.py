"""The decoder in process: steps of one token and whole prompts on the model runner, without scheduler, text or HTTP."""

from __future__ import annotations

import time

import numpy as np

from appliance.engine.types import ModelRunner, StepPlan

CHUNK_TOKENS = 256  # what the scheduler gives an undisturbed prompt
_LAST_LOGITS = np.zeros(1, np.int64)


class DecoderBench:
    """Fills rows with real keys and values, then times steps over them; used by one thread.

    An empty cache would flatter: its pages are all the same page of zeros.
    """

    def __init__(self, runner: ModelRunner, *, seed: int = 0) -> None:
        self._runner = runner
        self._random = np.random.default_rng(seed)
        self._num_filled = [0] * runner.num_slots

    def decode_rate(self, context: int, *, num_steps: int) -> float:
        """Measure tokens per second of one sequence whose new token sees `context` tokens, itself among them."""
        return self._step_rate([context - 1], num_steps)

    def batch_rate(self, num_slots: int, *, num_steps: int) -> float:
        """Measure tokens per second of all sequences together; their contexts are unequal, 200 tokens and more."""
        return self._step_rate([min(200 + 17 * i, self._runner.capacity - 1) for i in range(num_slots)], num_steps)

    def prefill_rate(self, num_tokens: int) -> float:
        """Measure tokens per second of one prompt, up to the logits of its last token."""
        self._num_filled[0] = 0
        begin_s = time.perf_counter()
        self._fill(0, num_tokens)
        return num_tokens / (time.perf_counter() - begin_s)

    def _step_rate(self, past: list[int], num_steps: int) -> float:
        for row, num_tokens in enumerate(past):
            self._fill(row, num_tokens)
        plan = StepPlan(
            first_slot=0,
            input_ids=self._tokens(len(past), 1),
            past_lens=np.array(past, np.int32),
            logit_rows=np.arange(len(past)),
        )
        self._runner.run(plan)
        begin_s = time.perf_counter()
        for _ in range(num_steps):
            self._runner.run(plan).argmax(axis=1)
        return num_steps * len(past) / (time.perf_counter() - begin_s)

    def _fill(self, row: int, num_tokens: int) -> None:
        """Compute what the row lacks of its first `num_tokens`."""
        while self._num_filled[row] < num_tokens:
            start = self._num_filled[row]
            size = min(CHUNK_TOKENS, num_tokens - start)
            is_last = start + size == num_tokens
            self._runner.run(
                StepPlan(
                    first_slot=row,
                    input_ids=self._tokens(1, size),
                    past_lens=np.array([start], np.int32),
                    logit_rows=_LAST_LOGITS + size - 1 if is_last else _LAST_LOGITS[:0],
                    variant="prompt",
                )
            )
            self._num_filled[row] = start + size

    def _tokens(self, num_slots: int, num_tokens: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        return self._random.integers(self._runner.vocab_size, size=(num_slots, num_tokens))
