"""The trial load of a bundle: the model is loaded and computes once, in a limited child process.

A model that hangs, exhausts the memory or crashes onnxruntime does so there and not in the server. `python -m
appliance.install.trial FOLDER LIMITS` is the child; it prints one JSON object, with "error" if the model failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.bundle import Bundle, DecoderSpec, EncoderSpec, Manifest, RerankerSpec
from appliance.bundle.manifest import MANIFEST_NAME, MODEL_NAME, TOKENIZER_NAME
from appliance.errors import BundleError, LanternError
from appliance.install.confine import confine
from appliance.install.graph_check import check_graph

if TYPE_CHECKING:
    from appliance.text.tokenizer import Tokenizer

_KEPT_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
_CAPACITY = 64
_PROMPT = "The lantern on the shelf"


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """Limits of the child: `base_bytes` of address space plus `weights_factor` times the weights, time, open files."""

    base_bytes: int = 2 << 30
    weights_factor: float = 4.0
    cpu_s: int = 300
    wall_s: float = 300.0
    num_files: int = 64

    def memory_bytes(self, manifest: Manifest) -> int:
        """Return the address space for this bundle; libraries and stacks reserve more of it than they ever use."""
        return self.base_bytes + int(self.weights_factor * manifest.loaded_bytes)


class Trial:
    """One trial load of a verified bundle in a child process; `run` blocks, and any thread may `stop` it."""

    def __init__(self, bundle: Bundle, limits: TrialLimits) -> None:
        self._bundle = bundle
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """Kill the child; a trial that has not begun ends at once when it does."""
        self._is_stopped = True
        if self._child is not None:
            self._child.kill()

    def run(self) -> None:
        """Load the model and compute with it once.

        Raises:
            BundleError: it could not be loaded or run within the limits, with the reason; or the trial was stopped.
        """
        name = self._bundle.name
        stdout, stderr, status = self._output()
        if status < 0:
            raise BundleError(f"the model {name} crashed in its trial: {_signal_name(-status)}")
        try:
            error = json.loads(stdout.splitlines()[-1]).get("error")
        except (ValueError, IndexError, AttributeError) as err:
            lines = stderr.decode("utf-8", "replace").strip().splitlines() or ["without a message"]
            raise BundleError(f"the model {name} failed in its trial: {lines[-1][:300]}") from err
        if error is not None:
            raise BundleError(f"the model {name} failed in its trial: {error}")

    def _output(self) -> tuple[bytes, bytes, int]:
        command = [sys.executable, "-m", __name__, str(self._bundle.folder), json.dumps(asdict(self._limits))]
        environment = {k: v for k in _KEPT_ENVIRONMENT if (v := os.environ.get(k)) is not None}
        with subprocess.Popen(  # noqa: S603
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as child:
            self._child = child
            if self._is_stopped:
                child.kill()
            try:
                stdout, stderr = child.communicate(timeout=self._limits.wall_s)
            except subprocess.TimeoutExpired as err:
                raise BundleError(
                    f"the model {self._bundle.name} did not load and answer within {self._limits.wall_s:g} s"
                ) from err
            finally:
                child.kill()
        return stdout, stderr, child.returncode


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _main(folder: Path, limits: TrialLimits) -> dict[str, object]:
    """Run the child: check the graph's bytes, then parse the other files, then load onnxruntime.

    The parent verified the folder, so the manifest is read without its signature.
    """
    manifest = Manifest.from_bytes((folder / MANIFEST_NAME).read_bytes())
    confine(memory_bytes=limits.memory_bytes(manifest), cpu_s=limits.cpu_s, num_files=limits.num_files)
    try:
        check_graph(folder / MODEL_NAME, {f.name: f.size_bytes for f in manifest.files})
        _run(folder, manifest)
    except LanternError as err:
        return {"error": err.message}
    except MemoryError:
        return {"error": f"it needs more than {limits.memory_bytes(manifest) >> 20} MiB"}
    return {}


def _run(folder: Path, manifest: Manifest) -> None:
    from appliance.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_file(folder / TOKENIZER_NAME)
    spec = manifest.model
    if isinstance(spec, EncoderSpec):
        _run_encoder(folder, spec, tokenizer)
    elif isinstance(spec, RerankerSpec):
        _run_reranker(folder, spec, tokenizer)
    else:
        _run_decoder(folder, manifest, spec, tokenizer)


def _run_encoder(folder: Path, spec: EncoderSpec, tokenizer: Tokenizer) -> None:
    import numpy as np

    from appliance.engine.runtime.model_file import ModelFile
    from appliance.engine.texts.embedder import Embedder

    embedder = Embedder(ModelFile(folder / MODEL_NAME), spec, num_threads=1)
    tokens = tokenizer.encode_framed(_PROMPT)[: spec.max_tokens]
    _check_tokens(tokens, tokenizer.vocab_size)
    vectors = embedder.embed([tokens, tokens])
    if vectors.shape != (2, spec.dimensions) or not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-2):
        raise BundleError(f"the model does not give unit vectors of {spec.dimensions} dimensions")


def _run_reranker(folder: Path, spec: RerankerSpec, tokenizer: Tokenizer) -> None:
    import numpy as np

    from appliance.engine.runtime.model_file import ModelFile
    from appliance.engine.texts.embedder import Reranker, TokenPair

    reranker = Reranker(ModelFile(folder / MODEL_NAME), num_threads=1)
    pairing = tokenizer.pairing(_PROMPT[:1], spec.prompt)
    document = pairing.encode(_PROMPT)[: max(1, pairing.room(spec.max_tokens))]
    tokens, second_start = pairing.join(document)
    _check_tokens(tokens, tokenizer.vocab_size)
    scores = reranker.score([TokenPair(tokens, second_start)] * 2)
    if scores.shape != (2,) or not np.isfinite(scores).all():
        raise BundleError("the model does not give one finite score a pair")


def _run_decoder(folder: Path, manifest: Manifest, spec: DecoderSpec, tokenizer: Tokenizer) -> None:
    import numpy as np

    from appliance.engine.runtime.model_file import ModelFile
    from appliance.engine.runtime.model_runner import OrtModelRunner
    from appliance.engine.types import StepPlan
    from appliance.models.loading import template_of

    template_of(folder, manifest, spec, tokenizer)
    tokens = tokenizer.encode(_PROMPT)[: _CAPACITY - 1]
    _check_tokens(tokens, spec.vocab_size)
    capacity = min(_CAPACITY, spec.context_length)
    runner = OrtModelRunner(ModelFile(folder / MODEL_NAME), spec, num_slots=1, capacity=capacity, num_threads=1)
    past = np.zeros(1, np.int32)
    steps = [(np.array([tokens], np.int64), past), (np.array([[tokens[-1]]], np.int64), past + np.int32(len(tokens)))]
    for input_ids, past_lens in steps:
        last = np.array([input_ids.shape[1] - 1], np.int64)
        logits = runner.run(StepPlan(first_slot=0, input_ids=input_ids, past_lens=past_lens, logit_rows=last))
        if logits.shape != (1, spec.vocab_size) or not np.isfinite(logits).all():
            raise BundleError(f"the model does not give {spec.vocab_size} finite logits")


def _check_tokens(tokens: tuple[int, ...], vocab_size: int) -> None:
    if not tokens or not all(0 <= t < vocab_size for t in tokens):
        raise BundleError("the tokenizer does not match the model's vocabulary")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(Path(sys.argv[1]), TrialLimits(**json.loads(sys.argv[2])))) + "\n")
