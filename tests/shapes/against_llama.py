"""Decode of published shapes with random weights beside llama.cpp's, in turn: python -m tests.shapes.against_llama.

Qwen3.5 0.8B and LFM2 1.2B: our form has int4 products and an int8 embedding, theirs is `llama-quantize`'s Q4_0.
Each runs in a process of its own with the same number of threads, ours by the engine's own runner, theirs by
`llama-bench`; the depths are tokens before the one that is timed. llama.cpp is Debian's package, unpacked into the
cache. Needs mmdebstrap, about 12 GB of disk and 6 GB of memory. On a busy machine only the ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from appliance.bench.decoder import DecoderBench
from appliance.engine.runtime.model_runner import OrtModelRunner
from tests.arm.tree import llama_tree_of_this_machine
from tests.quantize.sources.published import DECODERS
from tests.shapes.gguf_file import write_gguf
from tests.shapes.shapes import SHAPES, Config, Shaped, shaped

_PUBLISHED = ("Qwen3.5 0.8B", "LFM2 1.2B")
_DEPTHS = (128, 2048)
_CAPACITY = 4096
_STEPS = 24


def published(name: str) -> Config:
    """Return a published configuration, with the token ids of the tokenizer that comes with the random weights."""
    raw = DECODERS[name]
    text = {**raw, **raw.get("text_config", {})}
    del text["architectures"]
    for key in ("text_config", "vision_config"):
        text.pop(key, None)
    architecture = {"qwen3_5_text": "Qwen3_5ForCausalLM", "lfm2": "Lfm2ForCausalLM"}[text["model_type"]]
    kept = {key: value for key, value in text.items() if not key.startswith(("image_", "video_", "vision_"))}
    return {**kept, "architectures": [architecture], "bos_token_id": 1, "eos_token_id": 0}


@dataclass(frozen=True, slots=True)
class Llama:
    """Debian's llama.cpp, unpacked."""

    root: Path

    def run(self, program: str, *arguments: str | Path) -> str:
        """Run one of its programs with its own libraries, from the folder of its backends, which it then finds."""
        libraries = [self.root / folder for folder in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")]
        libraries.append(libraries[-1] / "llama")  # what its programs share
        backends = next(path.parent for path in sorted(self.root.glob("usr/lib/**/libggml-cpu*.so")))
        path = next(found for found in sorted(self.root.glob(f"usr/**/{program}")) if found.is_file())
        linker = next(self.root.glob("usr/lib*/**/ld-linux-x86-64.so.2"))
        command = [str(linker), "--library-path"]
        command += [":".join(map(str, [*libraries, backends])), str(path), *map(str, arguments)]
        done = subprocess.run(command, cwd=backends, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{program} failed: {done.stderr.strip()[-800:]}")
        return done.stdout

    def rate(self, model: Path, depth: int, threads: int) -> float:
        """Return tokens per second of single tokens behind `depth` others."""
        options = ["-p", "0", "-n", str(_STEPS), "-d", str(depth), "-t", str(threads), "-r", "1", "-o", "json"]
        return float(json.loads(self.run("llama-bench", "-m", model, *options))[0]["avg_ts"])


def our_rates(model: Shaped, threads: int) -> list[float]:
    """Return tokens per second of single tokens behind each of the depths, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_our_rates, (model, threads))


def _our_rates(model: Shaped, threads: int) -> list[float]:
    file = model.file()
    runner = OrtModelRunner(
        file, model.spec, num_slots=1, capacity=_CAPACITY, num_threads=threads, spinning=file.tuning.spinning
    )
    bench = DecoderBench(runner)
    return [bench.decode_rate(depth + 1, num_steps=_STEPS) for depth in _DEPTHS]


def quantized(llama: Llama, home: Path, name: str, config: Config) -> Path:
    """Return the GGUF file of a shape in Q4_0, which is made once."""
    target = home / f"{name}.Q4_0.gguf"
    if not target.exists():
        staged = write_gguf(home / f"{name}.F16.gguf", config, context=_CAPACITY)
        llama.run("llama-quantize", staged, target, "Q4_0")
        staged.unlink()
    return target


def main() -> None:
    """Read the options, make the models, and measure them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="folder for the models, which are kept there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--models", nargs="+", default=list(_PUBLISHED), choices=[*_PUBLISHED, *SHAPES])
    args = parser.parse_args()
    llama = Llama(llama_tree_of_this_machine())
    with tempfile.TemporaryDirectory() as scratch:
        home = args.home or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        for name in args.models:
            config, folder = _shape_of(name)
            ours, theirs = shaped(home, folder, config), quantized(llama, home, folder, config)
            _compare(name, llama, ours, theirs, args.rounds, args.threads)


def _shape_of(name: str) -> tuple[Config, str]:
    """Return the configuration of a published model or of a smaller shape, and the name of its folder."""
    if name in _PUBLISHED:
        return published(name), name.lower().replace(" ", "-")
    return SHAPES[name](), f"{name}-1024"


def _compare(name: str, llama: Llama, ours: Shaped, theirs: Path, rounds: int, threads: int) -> None:
    pairs: list[list[tuple[float, float]]] = [[] for _ in _DEPTHS]
    for _ in range(rounds):
        rates = our_rates(ours, threads)
        for i, depth in enumerate(_DEPTHS):
            pairs[i].append((rates[i], llama.rate(theirs, depth, threads)))
    for depth, found in zip(_DEPTHS, pairs, strict=True):
        mine, other = (statistics.median(rates) for rates in zip(*found, strict=True))
        ratio = statistics.median(a / b for a, b in found)
        sys.stdout.write(
            f"{name}, behind {depth} tokens: {mine:.1f} tok/s, llama.cpp {other:.1f}; {ratio:.2f} x, the median of "
            f"{rounds} rounds ({min(a / b for a, b in found):.2f} to {max(a / b for a, b in found):.2f})\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
