"""The dense modules behind the pooling of a sentence-transformers folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.sources.fields import Fields, read_json
from quantize.sources.folder import inside
from quantize.sources.tensors import FLOATS, Tensor, read_header

DenseActivation = Literal["identity", "tanh"]
_ACTIVATIONS: dict[str, DenseActivation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
}
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_WEIGHT, _BIAS = "linear.weight", "linear.bias"
_VECTOR = "sentence_embedding"

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Dense:
    """One module: activation(vector @ weight transposed + bias); weight (N, K), bias (N,) or None."""

    weight: Tensor
    bias: Tensor | None
    activation: DenseActivation

    @property
    def num_outputs(self) -> int:
        """The length of its vectors."""
        return self.weight.shape[0]

    def matrix(self) -> Float32:
        """Return the weight (N, K)."""
        return np.asarray(self.weight.load(), np.float32)

    def offset(self) -> Float32 | None:
        """Return the bias (N,), if there is one."""
        return None if self.bias is None else np.asarray(self.bias.load(), np.float32)

    def apply(self, vectors: Float32) -> Float32:
        """Compute vectors (B, N) of (B, K)."""
        result, offset = vectors @ self.matrix().T, self.offset()
        result = result if offset is None else result + offset
        return np.asarray(np.tanh(result) if self.activation == "tanh" else result, np.float32)


def dense_files(place: str) -> list[str]:
    """Return the names of the files of a dense module."""
    return [f"{place}/{_CONFIG}", f"{place}/{_WEIGHTS}"]


def read_dense(folder: Path, place: str, num_inputs: int) -> Dense:
    """Read a dense module that takes vectors of `num_inputs` numbers.

    Raises:
        QuantizeError: naming the key or the tensor that stands in the way.
    """
    config, weights = dense_files(place)
    fields = Fields(read_json(inside(folder, config)), config, "a dense module")
    stated, outputs = fields.count("in_features"), fields.count("out_features")
    has_bias = fields.flag("bias", True)
    activation = _ACTIVATIONS[fields.choice("activation_function", _ACTIVATIONS, "torch.nn.modules.activation.Tanh")]
    fields.fixed("module_input_name", _VECTOR)
    fields.fixed("module_output_name", _VECTOR)
    fields.left_out({})
    if stated != num_inputs:
        raise QuantizeError(f"in_features in {config} is {stated}, but the vectors before it have {num_inputs}")
    path = inside(folder, weights)
    if not path.is_file():
        raise QuantizeError(f"the checkpoint has no {weights}; convert the module's weights to safetensors")
    tensors = read_header(path)
    shapes: dict[str, tuple[int, ...]] = {_WEIGHT: (outputs, stated)} | ({_BIAS: (outputs,)} if has_bias else {})
    if unknown := sorted(tensors.keys() - shapes):
        raise QuantizeError(f"{weights} holds {unknown[0]}, which {config} does not describe")
    for name, shape in shapes.items():
        if name not in tensors:
            raise QuantizeError(f"{weights} has no {name}, which {config} asks for")
        if tensors[name].shape != shape:
            raise QuantizeError(
                f"{name} in {weights} has the shape {list(tensors[name].shape)}, but {config} says {list(shape)}"
            )
        if tensors[name].dtype not in FLOATS:
            raise QuantizeError(f"{name} in {weights} is stored as {tensors[name].dtype}, which is not known")
    return Dense(tensors[_WEIGHT], tensors.get(_BIAS), activation)
