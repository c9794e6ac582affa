"""A bundle is loaded and asked once, in a process that is thrown away and may take only so much: a trial load.

A model that hangs, exhausts the memory or crashes onnxruntime does so here and not in the server. `python -m
appliance.install.trial FOLDER LIMITS` is the child; it prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.bundle import Bundle, DecoderSpec, EncoderSpec, Manifest, RerankerSpec
from appliance.bundle.manifest import MANIFEST_NAME, MODEL_NAME, TOKENIZER_NAME
from appliance.errors import BundleError, LanternError
from appliance.install.confine import confine
from appliance.install.graph import check_graph

if TYPE_CHECKING:
    from appliance.text.tokenizer import Tokenizer

_KEPT_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
_CAPACITY = 64
_PROMPT = "The lantern on the shelf"


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What a trial may take: `base_bytes` of address space and `weights_factor` times the weights, and so on."""

    base_bytes: int = 2 << 30
    weights_factor: float = 4.0
    cpu_s: int = 300
    wall_s: float = 300.0
    num_files: int = 64

    def memory_bytes(self, manifest: Manifest) -> int:
        """Address space for this bundle; libraries and threads' stacks reserve more of it than they ever use."""
        return self.base_bytes + int(self.weights_factor * manifest.loaded_bytes) + manifest.loading_bytes


@dataclass(frozen=True, slots=True)
class Trial:
    """How a trial went; `is_confined` tells whether a system call filter held it."""

    peak_bytes: int
    is_confined: bool


def try_bundle(
    folder: Path,
    manifest: Manifest,
    limits: TrialLimits,
    *,
    on_start: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> Trial:
    """Load and run it once in a child, which `on_start` is given; blocks.

    Raises:
        BundleError: it could not be loaded or run within the limits; the message says why.
    """
    command = [sys.executable, "-m", __name__, str(folder), json.dumps(asdict(limits))]
    environment = {k: v for k in _KEPT_ENVIRONMENT if (v := os.environ.get(k)) is not None}
    with subprocess.Popen(  # noqa: S603
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        on_start(child)
        try:
            stdout, stderr = child.communicate(timeout=limits.wall_s)
        except subprocess.TimeoutExpired as err:
            child.kill()
            raise BundleError(f"the model {manifest.name} did not load and answer within {limits.wall_s:g} s") from err
        finally:
            child.kill()
    if child.returncode < 0:
        raise BundleError(f"the model {manifest.name} crashed in its trial: {_signal_name(-child.returncode)}")
    try:
        result = json.loads(stdout.splitlines()[-1])
    except (ValueError, IndexError) as err:
        said = stderr.decode("utf-8", "replace").strip().splitlines() or ["no word why"]
        raise BundleError(f"the model {manifest.name} failed in its trial: {said[-1][:300]}") from err
    if "error" in result:
        raise BundleError(f"the model {manifest.name} failed in its trial: {result['error']}")
    return Trial(**result)


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _main(folder: Path, limits: TrialLimits) -> dict[str, object]:
    """The child: first the graph's bytes, then what else is in the bundle, then onnxruntime."""
    manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
    is_confined = confine(memory_bytes=limits.memory_bytes(manifest), cpu_s=limits.cpu_s, num_files=limits.num_files)
    try:
        check_graph(folder / MODEL_NAME, {f.name: f.size_bytes for f in manifest.files})
        _run(Bundle(folder, manifest, signer="", digest=""))
    except LanternError as err:
        return {"error": err.message}
    except MemoryError:
        return {"error": f"it takes more than {limits.memory_bytes(manifest) >> 20} MiB"}
    return {"peak_bytes": _peak_bytes(), "is_confined": is_confined}


def _run(bundle: Bundle) -> None:
    from appliance.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(bundle.path(TOKENIZER_NAME))
    spec = bundle.manifest.model
    if isinstance(spec, EncoderSpec):
        _run_encoder(bundle, spec, tokenizer)
    elif isinstance(spec, RerankerSpec):
        _run_reranker(bundle, spec, tokenizer)
    else:
        _run_decoder(bundle, spec, tokenizer)


def _run_encoder(bundle: Bundle, spec: EncoderSpec, tokenizer: Tokenizer) -> None:
    import numpy as np

    from appliance.engine.embedder import Embedder
    from appliance.engine.model_file import ModelFile

    embedder = Embedder(ModelFile(bundle.path(MODEL_NAME)), spec, num_threads=1)
    tokens = tokenizer.encode_framed(_PROMPT)[: spec.max_tokens]
    _check_tokens(tokens, tokenizer.vocab_size)
    vectors = embedder.embed([tokens, tokens])
    if vectors.shape != (2, spec.dimensions) or not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2):
        raise BundleError(f"the model does not give unit vectors of {spec.dimensions} dimensions")


def _run_reranker(bundle: Bundle, spec: RerankerSpec, tokenizer: Tokenizer) -> None:
    import numpy as np

    from appliance.engine.embedder import Reranker, TokenPair
    from appliance.engine.model_file import ModelFile

    reranker = Reranker(ModelFile(bundle.path(MODEL_NAME)), num_threads=1)
    frame, text = tokenizer.pair_frame, tokenizer.encode(_PROMPT)
    room = max(1, frame.room_beside(text[:1], spec.max_tokens))
    tokens, second_start = frame.join(text[:1], text[:room])
    _check_tokens(tokens, tokenizer.vocab_size)
    scores = reranker.score([TokenPair(tokens, second_start)] * 2)
    if scores.shape != (2,) or not np.isfinite(scores).all():
        raise BundleError("the model does not give one finite score a pair")


def _run_decoder(bundle: Bundle, spec: DecoderSpec, tokenizer: Tokenizer) -> None:
    import numpy as np

    from appliance.engine.model_file import ModelFile
    from appliance.engine.model_runner import OrtModelRunner
    from appliance.engine.types import StepPlan
    from appliance.models.loading import template_of

    template_of(bundle, spec, tokenizer)
    tokens = tokenizer.encode(_PROMPT)[: _CAPACITY - 1]
    _check_tokens(tokens, spec.vocab_size)
    capacity = min(_CAPACITY, spec.context_length)
    runner = OrtModelRunner(ModelFile(bundle.path(MODEL_NAME)), spec, num_rows=1, capacity=capacity, num_threads=1)
    past = np.zeros(1, np.int32)
    steps = [(np.array([tokens], np.int64), past), (np.array([[tokens[-1]]], np.int64), past + np.int32(len(tokens)))]
    for input_ids, past_lens in steps:
        last = np.array([input_ids.shape[1] - 1], np.int64)
        logits = runner.run(StepPlan(first_row=0, input_ids=input_ids, past_lens=past_lens, logit_rows=last))
        if logits.shape != (1, spec.vocab_size) or not np.isfinite(logits).all():
            raise BundleError(f"the model does not give {spec.vocab_size} finite logits")


def _check_tokens(tokens: tuple[int, ...], vocab_size: int) -> None:
    if not tokens or not all(0 <= t < vocab_size for t in tokens):
        raise BundleError("the tokenizer does not match the model's vocabulary")


def _peak_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(Path(sys.argv[1]), TrialLimits(**json.loads(sys.argv[2])))) + "\n")
