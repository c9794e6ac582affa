"""A model that predicts last + 1 and keeps its cache in plain lists, so that a wrong row shows as a wrong token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from appliance.engine.types import StepPlan

VOCAB_SIZE = 1000


class CountingRunner:
    """Checks on every step that each row holds exactly what the plan says it holds."""

    def __init__(
        self,
        *,
        num_slots: int = 4,
        capacity: int = 256,
        vocab_size: int = VOCAB_SIZE,
        verify_width: int | None = None,
        num_checkpoints: int | None = None,
    ) -> None:
        self.verify_width = verify_width
        self.num_checkpoints = num_checkpoints
        self.states: list[tuple[int, ...]] = [()] * (num_slots + (num_checkpoints or 0))  # what each one has read
        self.num_slots = num_slots
        self.capacity = capacity
        self.vocab_size = vocab_size
        self.rows: list[list[int]] = [[] for _ in range(num_slots)]
        self.plans: list[StepPlan] = []
        self._drafted: tuple[tuple[int, ...], tuple[int, ...]] = (), ()

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        assert plan.num_slots == 1 or plan.input_ids.shape[1] == 1
        assert plan.variant != "verify" or plan.input_ids.shape == (1, self.verify_width)
        self.plans.append(plan)
        flat: list[tuple[int, int]] = []
        for i in range(plan.num_slots):
            row = self.rows[plan.first_slot + i]
            past = int(plan.past_lens[i])
            assert past <= len(row), "the cache holds less than the plan counts on"
            del row[past:]
            if plan.variant == "verify":
                self._drafted = tuple(row), tuple(plan.input_ids[i].tolist())
            else:
                self._advance(plan.first_slot + i, plan.input_ids[i].tolist())
            for token in plan.input_ids[i].tolist():
                row.append(token)
                assert len(row) <= self.capacity
                flat.append((token, sum(row) % 7))
        logits = np.zeros((len(plan.logit_rows), self.vocab_size), np.float32)
        for k, r in enumerate(plan.logit_rows.tolist()):
            token, history = flat[r]
            logits[k, (token + 1) % self.vocab_size] = 5.0
            logits[k, (token + 2 + history) % self.vocab_size] = 4.0  # depends on the whole row
        return logits

    def accept_draft(self, slot: int, num_tokens: int) -> None:
        before, tokens = self._drafted
        assert 0 < num_tokens <= len(tokens)
        assert self.states[slot] == before, "the state is not the one before the draft"
        self.states[slot] = (*before, *tokens[:num_tokens])

    def copy_slot(self, source: int, target: int, num_tokens: int) -> None:
        assert num_tokens <= len(self.rows[source])
        self.rows[target] = self.rows[source][:num_tokens]
        self.states[target] = self.states[source]

    def swap_slots(self, a: int, b: int, num_tokens: int) -> None:
        assert num_tokens >= max(len(self.rows[a]), len(self.rows[b])) or num_tokens > 0
        self.rows[a], self.rows[b] = self.rows[b], self.rows[a]
        self.states[a], self.states[b] = self.states[b], self.states[a]

    def keep_state(self, slot: int, place: int) -> None:
        self.states[self.num_slots + place] = self.states[slot]

    def restore_state(self, place: int, slot: int) -> None:
        self.states[slot] = self.states[self.num_slots + place]

    def _advance(self, slot: int, tokens: list[int]) -> None:
        """A state is all that it has read, so that one which does not belong to the row shows."""
        if self.num_checkpoints is None:
            return
        row = self.rows[slot]
        before = self.states[slot] if row else ()
        assert before == tuple(row), "the state is not the one after the row's tokens"
        self.states[slot] = (*before, *tokens)
