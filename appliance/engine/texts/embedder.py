"""The graph of an encoder or a reranker under onnxruntime: texts in, a row of numbers for each out.

A batch is cut into runs of similar length. The graphs that a bundle can hold, whose rows depend on no other row:

encoder   input_ids, attention_mask (B, S) int64 -> sentence_embedding (B, D) float32, unit length
reranker  input_ids, attention_mask, token_type_ids (B, S) int64 -> relevance_logit (B,) float32
          input_ids, attention_mask (B, S) int64 -> prompted_relevance_logit (B,) float32, of a model with a prompt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle import EncoderSpec
from appliance.engine.runtime.model_file import ModelFile
from appliance.errors import ModelError

# Of a graph whose texts need the manifest's prompt: a device that does not know prompts refuses such a graph.
PROMPTED_OUTPUT = "prompted_relevance_logit"
MAX_TOKENS_PER_RUN = 1024  # B * S, and with it memory; larger runs are not faster on a CPU


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A query and a document as one sequence; the second segment, as the model counts, starts at `second_start`."""

    tokens: tuple[int, ...]
    second_start: int

    def __len__(self) -> int:
        return len(self.tokens)


class Embedder:
    """An encoder: token sequences become unit vectors; used by one thread at a time."""

    def __init__(
        self,
        model: ModelFile,
        spec: EncoderSpec,
        *,
        num_threads: int,
        spinning: bool = False,
        max_tokens_per_run: int = MAX_TOKENS_PER_RUN,
    ) -> None:
        """Load the graph; `max_tokens_per_run` bounds B * S of one run.

        Raises:
            ModelError: the file is no such graph, or onnxruntime cannot run it.
        """
        self._session = _load(model, num_threads, spinning=spinning)
        self._dimensions = spec.dimensions
        self._max_tokens_per_run = max_tokens_per_run

    def embed(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return vectors (N, D) in the order of the sequences, each of at least one token.

        Raises:
            ModelError: onnxruntime failed.
        """
        vectors = np.empty((len(sequences), self._dimensions), np.float32)
        for indices in runs_of([len(s) for s in sequences], self._max_tokens_per_run):
            feeds = _padded([sequences[i] for i in indices])
            vectors[indices] = _run(self._session, "sentence_embedding", feeds)
        return vectors


class Reranker:
    """A reranker: pairs of texts become logits of relevance; used by one thread at a time."""

    def __init__(
        self,
        model: ModelFile,
        *,
        num_threads: int,
        spinning: bool = False,
        max_tokens_per_run: int = MAX_TOKENS_PER_RUN,
    ) -> None:
        """Load the graph; `max_tokens_per_run` bounds B * S of one run.

        Raises:
            ModelError: the file is no such graph, or onnxruntime cannot run it.
        """
        self._session = _load(model, num_threads, spinning=spinning)
        # A family without token types still has the input, but an optimized graph may have dropped it.
        names = {value.name for value in self._session.get_outputs()}
        self._output = PROMPTED_OUTPUT if PROMPTED_OUTPUT in names else "relevance_logit"
        self._takes_types = any(value.name == "token_type_ids" for value in self._session.get_inputs())
        self._max_tokens_per_run = max_tokens_per_run

    def score(self, pairs: Sequence[TokenPair]) -> NDArray[np.float32]:
        """Return logits (N,) in the order of the pairs.

        Raises:
            ModelError: onnxruntime failed.
        """
        logits = np.empty(len(pairs), np.float32)
        for indices in runs_of([len(pair) for pair in pairs], self._max_tokens_per_run):
            chosen = [pairs[i] for i in indices]
            feeds = _padded([pair.tokens for pair in chosen])
            if self._takes_types:
                starts = np.array([[pair.second_start] for pair in chosen])
                places = np.arange(feeds["input_ids"].shape[1])
                feeds["token_type_ids"] = (places >= starts).astype(np.int64) * feeds["attention_mask"]
            logits[indices] = _run(self._session, self._output, feeds)
        return logits


def runs_of(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return the indices of each run: sorted by length, as many as the token budget holds."""
    runs: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[runs[-1][0]] if runs else 0
        if runs and longest * (len(runs[-1]) + 1) <= max_tokens:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def _load(model: ModelFile, num_threads: int, *, spinning: bool) -> ort.InferenceSession:
    try:
        return model.session(num_threads, spinning=spinning)
    except Exception as err:
        raise ModelError(f"{model.path.name} cannot be loaded: {err}") from err


def _padded(sequences: Sequence[Sequence[int]]) -> dict[str, NDArray[np.int64]]:
    longest = max(len(s) for s in sequences)
    input_ids = np.zeros((len(sequences), longest), np.int64)
    attention_mask = np.zeros_like(input_ids)
    for i, sequence in enumerate(sequences):
        input_ids[i, : len(sequence)] = sequence
        attention_mask[i, : len(sequence)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _run(session: ort.InferenceSession, output: str, feeds: dict[str, NDArray[np.int64]]) -> NDArray[np.float32]:
    try:
        (rows,) = session.run([output], feeds)
    except Exception as err:
        raise ModelError(f"the model failed: {err}") from err
    result: NDArray[np.float32] = rows
    return result
