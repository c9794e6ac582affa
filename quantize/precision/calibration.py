"""The calibration text: prose, code, and answers of the model itself, in windows of tokens.

The evaluation uses none of it, and all of it is the same on every machine with this Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import TOKENIZER_NAME
from appliance.engine.types import StepPlan
from appliance.errors import QuantizeError
from quantize.evaluation import texts
from quantize.evaluation.framing import windows_of
from quantize.evaluation.questions import question_tokens
from quantize.evaluation.runners import load_float_runner
from quantize.precision.loadable import loadable_form
from quantize.progress import Progress
from quantize.recipe import CalibrationPart

_WINDOWS_NAME = "windows.npy"

_QUESTIONS = (
    "Explain how a bicycle stays upright.",
    "Write a short story about a lighthouse keeper.",
    "How do I sort a list of dictionaries in Python?",
    "Give me a recipe for lentil soup.",
    "What causes the seasons?",
    "Write an email asking my manager for a day off.",
    "Summarise the history of the printing press.",
    "What is the difference between a virus and a bacterium?",
    "Plan a three day trip to Lisbon.",
    "Explain compound interest with an example.",
    "Write a poem about autumn rain.",
    "List five tips for learning a new language.",
    "A train travels 120 km in 1.5 hours. What is its speed?",
    "Who was Marie Curie?",
    "Reply with a JSON object that describes a wooden desk.",
    "Describe the water cycle.",
)

Windows = NDArray[np.int64]


def calibration_windows(
    checkpoint: Path, float_folder: Path, spec: DecoderSpec, part: CalibrationPart, progress: Progress, *, scratch: Path
) -> Windows:
    """Return (num_windows, window_tokens): a third each of prose, code and chat; one fills in if another is short.

    `scratch` keeps the int8 form of a large model while it answers.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME))
    part = part.model_copy(update={"window_tokens": min(part.window_tokens, spec.context_length // 2)})
    text = part.own_text()
    if text is not None:
        return _own_windows(tokenizer, text, part, spec.vocab_size)
    share = -(-part.num_windows // 3)
    with loadable_form(float_folder, scratch) as form:
        chat = _chat_windows(tokenizer, checkpoint, form, spec, part, min(share, len(_QUESTIONS)), progress)
    prose = _text_windows(tokenizer, texts.prose(), part, spec.vocab_size)
    code = _text_windows(tokenizer, texts.code(), part, spec.vocab_size)
    mixed: list[Windows] = []
    for index in range(part.num_windows):
        for kind in (chat, prose, code):
            mixed += kind[index : index + 1]
    return np.stack(mixed[: part.num_windows])


def save_windows(folder: Path, windows: Windows) -> None:
    """Keep the windows for the stages that fit to them."""
    np.save(folder / _WINDOWS_NAME, windows)


def load_windows(folder: Path) -> Windows:
    """Read the windows that `save_windows` kept."""
    windows: Windows = np.load(folder / _WINDOWS_NAME)
    return windows


def _own_windows(tokenizer: Tokenizer, text: str, part: CalibrationPart, vocab_size: int) -> Windows:
    found = _text_windows(tokenizer, [text], part, vocab_size)
    if not found:
        raise QuantizeError(f"the calibration text {part.file} has fewer than {part.window_tokens} tokens, one window")
    return np.stack(found)


def _text_windows(tokenizer: Tokenizer, pieces: Sequence[str], part: CalibrationPart, vocab_size: int) -> list[Windows]:
    """Cut windows spread evenly over the pieces."""
    joined = "\n\n".join(pieces)
    length, count = part.window_tokens, part.num_windows
    return windows_of(tokenizer, joined, length=length, count=count, vocab_size=vocab_size, spread=True)


def _chat_windows(
    tokenizer: Tokenizer,
    checkpoint: Path,
    folder: Path,
    spec: DecoderSpec,
    part: CalibrationPart,
    count: int,
    progress: Progress,
) -> list[Windows]:
    """Sample answers of a model at temperature 1; the tokens after the end of an answer count as text too."""
    questions = [question_tokens(tokenizer, checkpoint, spec, question) for question in _QUESTIONS[:count]]
    prompts = [tokens[: part.window_tokens - 1] for tokens in questions]
    num_steps = part.window_tokens - min(map(len, prompts))
    capacity = max(map(len, prompts)) + num_steps
    runner = load_float_runner(folder, spec, capacity=capacity, num_slots=count)
    rng = np.random.default_rng(part.seed)
    rows = [np.asarray(prompt, np.int64) % spec.vocab_size for prompt in prompts]
    logits = []
    for index, row in enumerate(rows):
        plan = StepPlan(index, row[None], np.zeros(1, np.int32), np.array([len(row) - 1], np.int64))
        logits.append(runner.run(plan))
    last = _sample(np.concatenate(logits), rng)
    for step in range(num_steps):
        past_lens = np.array([len(row) for row in rows], np.int32)
        rows = [np.append(row, token) for row, token in zip(rows, last, strict=True)]
        plan = StepPlan(0, last[:, None], past_lens, np.arange(count, dtype=np.int64))
        if step + 1 < num_steps:
            last = _sample(runner.run(plan), rng)
        progress.advance_to((step + 1) / num_steps)
    return [row[: part.window_tokens] for row in rows]


def _sample(logits: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """Sample one token a row at temperature 1, by the Gumbel trick."""
    return np.asarray((logits + rng.gumbel(size=logits.shape)).argmax(axis=1), np.int64)
