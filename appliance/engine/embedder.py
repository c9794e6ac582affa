"""Token sequences become unit vectors: the encoder graph under onnxruntime, a batch cut into runs of similar length.

The graph that every encoder bundle holds:

inputs   input_ids, attention_mask (B, S) int64
output   sentence_embedding (B, D) float32, unit length; no row depends on another
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from appliance.bundle import EncoderSpec
from appliance.engine.prepacked import ModelFile
from appliance.errors import ModelError


class Embedder:
    """The encoder on onnxruntime; used by one thread at a time."""

    def __init__(
        self,
        model: ModelFile,
        spec: EncoderSpec,
        *,
        num_threads: int,
        spinning: bool = False,
        max_tokens_per_run: int = 1024,
    ) -> None:
        """`max_tokens_per_run` bounds B * S of one run, and with it memory; larger runs are not faster on a CPU.

        Raises:
            ModelError: the file is not such a graph, or onnxruntime cannot run it.
        """
        try:
            self._session = model.session(num_threads, spinning=spinning)
        except Exception as err:
            raise ModelError(f"{model.path.name} cannot be loaded: {err}") from err
        self._dimensions = spec.dimensions
        self._max_tokens_per_run = max_tokens_per_run

    def embed(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors (N, D) in the order of the sequences, each of at least one token.

        Raises:
            ModelError: onnxruntime failed.
        """
        vectors = np.empty((len(sequences), self._dimensions), np.float32)
        for indices in self.plan([len(s) for s in sequences]):
            vectors[indices] = self._run([sequences[i] for i in indices])
        return vectors

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of each run: sorted by length, as many as the token budget holds."""
        runs: list[list[int]] = []
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            longest = lengths[runs[-1][0]] if runs else 0
            if runs and longest * (len(runs[-1]) + 1) <= self._max_tokens_per_run:
                runs[-1].append(i)
            else:
                runs.append([i])
        return runs

    def _run(self, sequences: list[Sequence[int]]) -> NDArray[np.float32]:
        longest = max(len(s) for s in sequences)
        input_ids = np.zeros((len(sequences), longest), np.int64)
        attention_mask = np.zeros_like(input_ids)
        for i, sequence in enumerate(sequences):
            input_ids[i, : len(sequence)] = sequence
            attention_mask[i, : len(sequence)] = 1
        try:
            (vectors,) = self._session.run(
                ["sentence_embedding"], {"input_ids": input_ids, "attention_mask": attention_mask}
            )
        except Exception as err:
            raise ModelError(f"the model failed: {err}") from err
        result: NDArray[np.float32] = vectors
        return result
