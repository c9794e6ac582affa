"""Answers of the float model and of the quantized one to the same questions, both greedy, all in one batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import TOKENIZER_NAME
from appliance.engine.types import ModelRunner, StepPlan
from quantize.evaluation.corrected import corrected
from quantize.evaluation.findings import AnswerPair
from quantize.evaluation.metrics import Metrics
from quantize.evaluation.questions import question_tokens
from quantize.evaluation.runners import load_float_runner, load_runner
from quantize.evaluation.tasks import OPEN_QUESTIONS, TASKS
from quantize.progress import Progress

NAME = "answers.json"

_MAX_TOKENS = 48


@dataclass(frozen=True, slots=True)
class FloatModel:
    """A float decoder, and the form of it that is loaded: its own folder, or one whose answers it corrects."""

    folder: Path
    form: Path


def compare_answers(
    model: FloatModel, quantized_folder: Path, checkpoint: Path, spec: DecoderSpec, progress: Progress
) -> list[AnswerPair]:
    """Ask both models, and return the answers to every task, then those to the open questions."""
    questions = [task.question for task in TASKS] + list(OPEN_QUESTIONS)
    before = float_answers_of(model, checkpoint, spec, questions)
    progress.advance_to(0.5)
    after = answers_of(quantized_folder, checkpoint, spec, questions)
    progress.advance_to(1.0)
    found = []
    for index, (question, old, new) in enumerate(zip(questions, before, after, strict=True)):
        is_right = TASKS[index].is_right if index < len(TASKS) else None
        rights = (None, None) if is_right is None else (is_right(old), is_right(new))
        found.append(AnswerPair(question, old, new, *rights))
    return found


def answers_of(folder: Path, texts_folder: Path, spec: DecoderSpec, questions: Sequence[str]) -> list[str]:
    """Return greedy answers of a model; `texts_folder` holds the tokenizer and the chat template."""
    asked = _Asked.of(texts_folder, spec, questions)
    runner = load_runner(folder, spec, capacity=asked.capacity, num_slots=len(asked.prompts))
    return asked.in_words(asked.continued(runner, asked.prompts))


def float_answers_of(model: FloatModel, texts_folder: Path, spec: DecoderSpec, questions: Sequence[str]) -> list[str]:
    """Return what the float model answers greedily."""
    asked = _Asked.of(texts_folder, spec, questions)
    runner = load_float_runner(model.form, spec, capacity=asked.capacity, num_slots=len(asked.prompts))
    answers = asked.continued(runner, asked.prompts)
    if model.form != model.folder:
        go_on = partial(asked.continued, runner)
        answers = corrected(model.folder, asked.prompts, answers, asked.stops, go_on, max_tokens=_MAX_TOKENS)
    return asked.in_words(answers)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Questions as a model reads them, and the tokens that end an answer."""

    tokenizer: Tokenizer
    prompts: Sequence[Sequence[int]]
    stops: frozenset[int]

    @classmethod
    def of(cls, texts_folder: Path, spec: DecoderSpec, questions: Sequence[str]) -> Self:
        tokenizer = Tokenizer.from_file(str(texts_folder / TOKENIZER_NAME))
        limit = max(1, spec.context_length - 2 * _MAX_TOKENS)
        prompts = [
            [token % spec.vocab_size for token in question_tokens(tokenizer, texts_folder, spec, question)][:limit]
            for question in questions
        ]
        return cls(tokenizer, prompts, frozenset(spec.eos_token_ids))

    @property
    def capacity(self) -> int:
        """The tokens of a row: rows that go on from different places take as many steps as the first of them."""
        return max(map(len, self.prompts)) + 2 * _MAX_TOKENS

    def continued(
        self, runner: ModelRunner, prompts: Sequence[Sequence[int]], max_tokens: int = _MAX_TOKENS
    ) -> list[list[int]]:
        return continue_greedily(runner, prompts, self.stops, max_tokens=max_tokens)

    def in_words(self, answers: Sequence[Sequence[int]]) -> list[str]:
        return [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in answers]


def task_metrics(answers: Sequence[AnswerPair]) -> Metrics:
    """Count the tasks that were right, before and after."""
    checked = [answer for answer in answers if answer.after_is_right is not None]
    return {
        "tasks": float(len(checked)),
        "tasks_right": float(sum(answer.after_is_right is True for answer in checked)),
        "tasks_right_float": float(sum(answer.before_is_right is True for answer in checked)),
    }


def continue_greedily(
    runner: ModelRunner, prompts: Sequence[Sequence[int]], stops: frozenset[int], *, max_tokens: int
) -> list[list[int]]:
    """Generate the likeliest token at every step, for all prompts together, each until a stop token."""
    num_slots = len(prompts)
    logits = []
    for row, prompt in enumerate(prompts):
        last = np.array([len(prompt) - 1], np.int64)
        logits.append(runner.run(StepPlan(row, np.asarray([prompt], np.int64), np.zeros(1, np.int32), last)).copy())
    chosen: NDArray[np.int64] = np.concatenate(logits).argmax(axis=1)
    lens = np.array([len(prompt) for prompt in prompts], np.int32)
    generated: list[list[int]] = [[] for _ in prompts]
    done = [False] * num_slots
    for step in range(max_tokens):
        for row, token in enumerate(chosen.tolist()):
            done[row] = done[row] or token in stops
            if not done[row]:
                generated[row].append(token)
        if all(done) or step + 1 == max_tokens:
            break
        plan = StepPlan(0, chosen[:, None], lens, np.arange(num_slots, dtype=np.int64))
        chosen = runner.run(plan).argmax(axis=1)
        lens = lens + np.int32(1)
    return generated


def write_answers(folder: Path, answers: Sequence[AnswerPair]) -> None:
    """Write the answers beside the metrics."""
    (folder / NAME).write_text(json.dumps([asdict(answer) for answer in answers], ensure_ascii=False), encoding="utf-8")


def load_answers(folder: Path) -> list[AnswerPair]:
    """Read the answers that `write_answers` kept."""
    return [AnswerPair(**fields) for fields in json.loads((folder / NAME).read_text(encoding="utf-8"))]
