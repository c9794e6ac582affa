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
        num_rows: int = 4,
        capacity: int = 256,
        vocab_size: int = VOCAB_SIZE,
        stepwise_width: int | None = None,
    ) -> None:
        self.stepwise_width = stepwise_width
        self.num_rows = num_rows
        self.capacity = capacity
        self.vocab_size = vocab_size
        self.rows: list[list[int]] = [[] for _ in range(num_rows)]
        self.plans: list[StepPlan] = []

    def run(self, plan: StepPlan) -> NDArray[np.float32]:
        assert plan.num_rows == 1 or plan.input_ids.shape[1] == 1
        assert plan.variant != "stepwise" or plan.input_ids.shape == (1, self.stepwise_width)
        self.plans.append(plan)
        flat: list[tuple[int, int]] = []
        for i in range(plan.num_rows):
            row = self.rows[plan.first_row + i]
            past = int(plan.past_lens[i])
            assert past <= len(row), "the cache holds less than the plan counts on"
            del row[past:]
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

    def copy_row(self, source: int, target: int, num_tokens: int) -> None:
        assert num_tokens <= len(self.rows[source])
        self.rows[target] = self.rows[source][:num_tokens]

    def swap_rows(self, a: int, b: int, num_tokens: int) -> None:
        assert num_tokens >= max(len(self.rows[a]), len(self.rows[b])) or num_tokens > 0
        self.rows[a], self.rows[b] = self.rows[b], self.rows[a]
