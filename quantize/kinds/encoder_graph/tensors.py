"""An encoder's tensors by their purpose; an error names a missing one as its family does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.sources.encoder_config import EncoderConfig

Float32 = NDArray[np.float32]
Tensors = Mapping[str, Float32]

_PREFIXES = ("bert.", "roberta.", "mpnet.", "model.")  # that a checkpoint with a head puts before its encoder


@dataclass(frozen=True, slots=True)
class Linear:
    """A product of N outputs and K inputs."""

    weight: Float32
    bias: Float32 | None


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm."""

    name: str
    gamma: Float32
    beta: Float32 | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. With a gated activation `ffn_in` holds the rows of the gate, then those that it lets through.

    Norms come after each residual sum; if norms come first, `attention_norm` is None in layer 0.
    """

    qkv: Linear
    attention_out: Linear
    attention_norm: Norm | None
    ffn_in: Linear
    ffn_out: Linear
    ffn_norm: Norm


@dataclass(frozen=True, slots=True)
class EmbeddingWeights:
    """Rows of words, of positions and of token types, as far as the family has them, and the norm of their sum."""

    words: Float32
    positions: Float32 | None
    types: Float32 | None
    norm: Norm


class EncoderWeights:
    """The reader of one checkpoint's tensors; every method raises QuantizeError for an absent one or another shape."""

    def __init__(self, config: EncoderConfig, tensors: Tensors) -> None:
        self._config = config
        self._tensors = tensors

    def embeddings(self) -> EmbeddingWeights:
        """Read the tensors before the first layer."""
        config, hidden = self._config, self._config.hidden_size
        if config.architecture == "modernbert":
            words = self._get("embeddings.tok_embeddings.weight", config.vocab_size, hidden)
            return EmbeddingWeights(words, None, None, self._norm("embeddings.norm"))
        words = self._get("embeddings.word_embeddings.weight", config.vocab_size, hidden)
        types = None
        if config.num_token_types:
            types = self._get("embeddings.token_type_embeddings.weight", config.num_token_types, hidden)
        if config.architecture == "nomic_bert":
            return EmbeddingWeights(words, None, types, self._norm("emb_ln"))
        rows = config.first_position + config.max_positions
        positions = self._get("embeddings.position_embeddings.weight", rows, hidden)[config.first_position :]
        return EmbeddingWeights(words, positions, types, self._norm("embeddings.LayerNorm"))

    def layer(self, index: int) -> LayerWeights:
        """Read one layer."""
        match self._config.architecture:
            case "modernbert":
                return self._modernbert_layer(f"layers.{index}", has_norm=index > 0)
            case "nomic_bert":
                return self._nomic_layer(f"encoder.layers.{index}")
            case _:
                return self._bert_layer(f"encoder.layer.{index}")

    def final_norm(self) -> Norm | None:
        """Read the norm after the last layer, which exists if norms come first."""
        return self._norm("final_norm") if self._config.architecture == "modernbert" else None

    def relative_bias(self) -> Float32 | None:
        """Read MPNet's bias (buckets, heads) of the attention scores by the distance of two tokens."""
        name = "encoder.relative_attention_bias.weight"
        if self._config.architecture != "mpnet":
            return None
        return self._get(name, len(self._tensors.get(name, ())), self._config.num_heads)

    def linear(self, name: str, num_outputs: int, num_inputs: int) -> Linear:
        """Read one product, and its bias if it has one."""
        bias = f"{name}.bias"
        return Linear(
            self._get(f"{name}.weight", num_outputs, num_inputs),
            self._get(bias, num_outputs) if bias in self._tensors else None,
        )

    def norm(self, name: str) -> Norm:
        """Read one norm."""
        return self._norm(name)

    def _bert_layer(self, name: str) -> LayerWeights:
        hidden, wide = self._config.hidden_size, self._config.intermediate_size
        if self._config.architecture == "mpnet":
            parts = [f"{name}.attention.attn.{part}" for part in "qkv"]
            out, norm = f"{name}.attention.attn.o", f"{name}.attention.LayerNorm"
        else:
            parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
            out, norm = f"{name}.attention.output.dense", f"{name}.attention.output.LayerNorm"
        return LayerWeights(
            qkv=_stacked([self._biased(part, hidden, hidden) for part in parts]),
            attention_out=self._biased(out, hidden, hidden),
            attention_norm=self._norm(norm),
            ffn_in=self._biased(f"{name}.intermediate.dense", wide, hidden),
            ffn_out=self._biased(f"{name}.output.dense", hidden, wide),
            ffn_norm=self._norm(f"{name}.output.LayerNorm"),
        )

    def _nomic_layer(self, name: str) -> LayerWeights:
        hidden, wide = self._config.hidden_size, self._config.intermediate_size
        return LayerWeights(
            qkv=self.linear(f"{name}.attn.Wqkv", 3 * hidden, hidden),
            attention_out=self.linear(f"{name}.attn.out_proj", hidden, hidden),
            attention_norm=self._norm(f"{name}.norm1"),
            ffn_in=_stacked([self.linear(f"{name}.mlp.{part}", wide, hidden) for part in ("fc12", "fc11")]),
            ffn_out=self.linear(f"{name}.mlp.fc2", hidden, wide),
            ffn_norm=self._norm(f"{name}.norm2"),
        )

    def _modernbert_layer(self, name: str, *, has_norm: bool) -> LayerWeights:
        hidden, wide = self._config.hidden_size, self._config.intermediate_size
        return LayerWeights(
            qkv=self.linear(f"{name}.attn.Wqkv", 3 * hidden, hidden),
            attention_out=self.linear(f"{name}.attn.Wo", hidden, hidden),
            attention_norm=self._norm(f"{name}.attn_norm") if has_norm else None,
            ffn_in=self.linear(f"{name}.mlp.Wi", 2 * wide, hidden),
            ffn_out=self.linear(f"{name}.mlp.Wo", hidden, wide),
            ffn_norm=self._norm(f"{name}.mlp_norm"),
        )

    def _biased(self, name: str, num_outputs: int, num_inputs: int) -> Linear:
        weight = self._get(f"{name}.weight", num_outputs, num_inputs)
        return Linear(weight, self._get(f"{name}.bias", num_outputs))

    def _norm(self, name: str) -> Norm:
        hidden, beta = self._config.hidden_size, f"{name}.bias"
        gamma = self._get(f"{name}.weight", hidden)
        return Norm(name, gamma, self._get(beta, hidden) if beta in self._tensors else None)

    def _get(self, name: str, *shape: int) -> Float32:
        if name not in self._tensors:
            raise QuantizeError(f"the weights have no {name}; {self._config.architecture} has it where it is known")
        array = self._tensors[name]
        if array.shape != shape:
            raise QuantizeError(f"{name} has the shape {list(array.shape)}, but config.json says {list(shape)}")
        return np.asarray(array, np.float32)


def load_tensors(checkpoint: Path) -> Tensors:
    """Load all tensors of a checkpoint as float32, without the prefix that task heads add.

    Raises:
        QuantizeError: the files cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Float32] = {}
    try:
        for path in sorted(checkpoint.glob("*.safetensors")):
            for name, tensor in load_file(path).items():
                prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
                tensors[name.removeprefix(prefix)] = tensor.float().numpy()
    except SafetensorError as err:
        raise QuantizeError(f"the weights cannot be read: {err}") from err
    return tensors


def _stacked(parts: list[Linear]) -> Linear:
    """Join products of the same rows; either all or none have biases."""
    biases = [part.bias for part in parts if part.bias is not None]
    weight = np.concatenate([part.weight for part in parts])
    return Linear(weight, np.concatenate(biases) if biases else None)
