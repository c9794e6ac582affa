"""Bundles beside llama.cpp's files of the same weights: KL and top-1 on two texts, as llama-perplexity measures.

    python -m tests.quantize.frontier --llama LLAMA-PERPLEXITY --float F32.gguf --home HOME
        --work DIR [--gguf FILE]... BUNDLE...

Windows of 512 tokens, second halves only. llama.cpp's own tool measures its files against its own float file; the
bundles are measured against the fused float graph in HOME's cache, on the same tokens. HOME holds one decoder's stages.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from appliance.bundle import DecoderSpec
from appliance.bundle.manifest import MODEL_DATA_NAME, MODEL_NAME
from appliance.engine.types import StepPlan
from quantize.evaluation import texts
from quantize.evaluation.answers import continue_greedily
from quantize.evaluation.questions import question_tokens
from quantize.evaluation.runners import load_runner
from quantize.recipe import Recipe
from quantize.sources.decoder_config import read_decoder_config
from quantize.spec import decoder_spec

_WINDOW, _FIRST, _NUM_WINDOWS = 512, 256, 6
_HEADER_BYTES = 20
_QUESTIONS = (
    "Why is the sky blue?",
    "How do I make tea?",
    "Tell me about the Roman roads.",
    "Write a function that reverses a string, and explain it.",
    "What should I pack for a week in the mountains?",
    "How does a telescope work?",
)
_ANSWER_TOKENS = 220
_DOCUMENTED = ("aiohttp", "pydantic")  # packages whose long descriptions are the documentation
_DOCUMENT_CHARS = 4500


def main() -> None:
    """Print one line a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama", type=Path, required=True)
    parser.add_argument("--float", type=Path, required=True, dest="float_gguf")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps both texts and llama.cpp's float figures")
    parser.add_argument("--gguf", type=Path, action="append", default=[])
    parser.add_argument("bundles", type=Path, nargs="*")
    arguments = parser.parse_args()
    fused = next((arguments.home / "cache/quantize").glob("fuse-*"))
    checkpoint = next((arguments.home / "cache/quantize").glob("checkpoint-*"))
    recipe = Recipe.create(name="any", source={"uri": "any"})
    spec = decoder_spec(read_decoder_config(checkpoint), checkpoint, recipe)
    folder = arguments.work
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("prose", "other"):
        text, base = folder / f"{name}.txt", folder / f"{name}.kld"
        if not base.exists():
            text.write_text(texts.held_out_prose() if name == "prose" else _other_text(fused, checkpoint, spec))
            _llama(arguments.llama, arguments.float_gguf, text, base, "--chunks", str(_NUM_WINDOWS))
        for gguf in arguments.gguf:
            said = _llama(arguments.llama, gguf, text, base, "--kl-divergence")
            kl, top = (_figure(said, label) for label in ("Mean    KLD", "Same top p"))
            _say(name, gguf, gguf.stat().st_size, kl, top)
        windows = _windows(base)
        reference = _log_probs(fused, spec, windows) if arguments.bundles else np.empty(0)
        for bundle in arguments.bundles:
            found = _log_probs(bundle, spec, windows)
            kl = float((np.exp(reference) * (reference - found)).sum(axis=1).mean())
            top = 100 * float((reference.argmax(axis=1) == found.argmax(axis=1)).mean())
            size_bytes = sum((bundle / part).stat().st_size for part in (MODEL_NAME, MODEL_DATA_NAME))
            _say(name, bundle, size_bytes, kl, top)


def _say(text: str, file: Path, size_bytes: int, kl: float, top: float) -> None:
    sys.stdout.write(f"{text:6} {file.name:20} {size_bytes / 1e6:7.1f} MB  KL {kl:.4f}  top-1 {top:.1f}\n")
    sys.stdout.flush()


def _other_text(fused: Path, checkpoint: Path, spec: DecoderSpec) -> str:
    """Join answers of the float model, code and documentation; calibration uses none of it."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    prompts = [question_tokens(tokenizer, checkpoint, spec, question) for question in _QUESTIONS]
    runner = load_runner(fused, spec, capacity=512, num_slots=len(prompts))
    answers = continue_greedily(runner, prompts, frozenset(spec.eos_token_ids), max_tokens=_ANSWER_TOKENS)
    chat = "\n".join(f"{q}\n{tokenizer.decode(a)}" for q, a in zip(_QUESTIONS, answers, strict=True))
    documents = [_description(name)[:_DOCUMENT_CHARS] for name in _DOCUMENTED]
    return "\n\n".join([chat, texts.held_out_code()[:6000], *documents])


def _description(package: str) -> str:
    return (distribution(package).read_text("METADATA") or "").partition("\n\n")[2]


def _llama(tool: Path, model: Path, text: Path, base: Path, *more: str) -> str:
    command = [tool, "-m", model, "-f", text, "-c", str(_WINDOW), "-t", "2", "--kl-divergence-base", base, *more]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def _figure(said: str, label: str) -> float:
    match = re.search(re.escape(label) + r"\s*:\s*([-\d.]+)", said)
    if match is None:
        raise SystemExit(f"llama-perplexity did not say {label}:\n{said[-2000:]}")
    return float(match[1])


def _windows(base: Path) -> NDArray[np.int64]:
    """Read the tokens on which llama.cpp measured."""
    raw = base.read_bytes()
    length, _, count = np.frombuffer(raw[8:_HEADER_BYTES], "<i4")
    tokens = np.frombuffer(raw, "<i4", count=length * count, offset=_HEADER_BYTES)
    return tokens.reshape(count, length).astype(np.int64)


def _log_probs(folder: Path, spec: DecoderSpec, windows: NDArray[np.int64]) -> NDArray[np.float32]:
    runner = load_runner(folder, spec, capacity=_WINDOW)
    rows = np.arange(_FIRST, _WINDOW - 1, dtype=np.int64)
    found = []
    for window in windows:
        logits = runner.run(StepPlan(0, window[None], np.zeros(1, np.int32), rows))
        logits = logits - logits.max(axis=1, keepdims=True)
        found.append(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))
    return np.asarray(np.concatenate(found), np.float32)


if __name__ == "__main__":
    main()
