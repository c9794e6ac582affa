"""A causal model of transformers whose layers are in memory one at a time, for passes forward and back.

Everything but the layers is loaded. A layer is computed with the arguments that the model itself passes to it; they are
the same for all texts of one length, since no text is padded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.builder.weights import Weights, whole
from quantize.quiet import quiet
from quantize.sources.fields import read_json
from quantize.sources.rope import QUERY_SCALE

# Ministral 3 is a Mistral within its trained length, the longest context of a bundle: its queries are scaled beyond.
_SAME_BLOCKS = {"ministral3": "mistral"}

Parameters = Mapping[str, Callable[[], NDArray[np.float32]]]  # functions that read a tensor, by transformers' names


class TorchBlocks:
    """One model; owned by one thread."""

    def __init__(self, model: Any, parameters: Parameters, *, tokens: torch.Tensor | None = None) -> None:
        """Load all weights of a model of `empty_model` but those of its layers.

        `tokens`: those that texts will have, if they are known: no other rows of the embedding stay, unless the head
        has the same table.

        Raises:
            QuantizeError: a weight is missing, or is not of its architecture.
        """
        self.model = model
        self.model.requires_grad_(requires_grad=False)
        self.layers: list[torch.nn.Module] = list(self.model.get_decoder().layers)
        self._parameters = parameters
        self._check_names()
        inside = {id(module) for layer in self.layers for module in layer.modules()}
        embedding = None if self.model.config.tie_word_embeddings else self.model.get_input_embeddings()
        for module in self.model.modules():
            if id(module) not in inside:
                self._load(module)
                if module is embedding and tokens is not None:
                    _keep_rows(module, tokens)
        self.model.tie_weights()
        self._arguments: list[dict[str, Any]] = []
        self._returns_tuple = False

    @classmethod
    def canonical(cls, checkpoint: Path, weights: Weights, *, tokens: torch.Tensor | None = None) -> Self:
        """Open the model of a checkpoint's folder with its canonical weights.

        Raises:
            QuantizeError: the weights are not those of its architecture.
        """
        parameters = {name: partial(whole, rows) for name, rows in weights.items()}
        return cls(empty_model(_config_of(checkpoint)), parameters, tokens=tokens)

    @contextlib.contextmanager
    def layer(self, index: int) -> Iterator[torch.nn.Module]:
        """Hold the weights of one layer."""
        layer = self.layers[index]
        for module in layer.modules():
            self._load(module)
        try:
            yield layer
        finally:
            for module in layer.modules():
                for name, parameter in list(module.named_parameters(recurse=False)):
                    empty = torch.empty_like(parameter, device="meta")
                    setattr(module, name, torch.nn.Parameter(empty, requires_grad=False))

    def embedded(self, text: torch.Tensor) -> torch.Tensor:
        """Return what the first layer receives of a text (T,): (1, T, hidden)."""
        found: list[torch.Tensor] = []

        def stop(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise _Reached

        with _hooked(self.layers[0], stop), contextlib.suppress(_Reached):
            self.model(text[None], use_cache=False)
        return found[0]

    def compute(self, index: int, hidden: torch.Tensor) -> torch.Tensor:
        """Compute one layer, which the caller holds."""
        out = self.layers[index](hidden, **self._arguments[index])
        return out[0] if isinstance(out, tuple) else out

    def learn_arguments(self, text: torch.Tensor) -> None:
        """Note what the model passes to each layer for texts of this length, by one pass over a text."""
        self._arguments = [{} for _ in self.layers]
        with contextlib.ExitStack() as stack, torch.no_grad():
            for index, layer in enumerate(self.layers):
                stack.enter_context(self._replaced(layer, self._noting(index)))
            self.model(text[None], use_cache=False, logits_to_keep=1)

    def logits(self, hidden: torch.Tensor, text: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits (T, V) for what the last layer left of a text (T,), or those of some positions."""
        kept = {} if positions is None else {"logits_to_keep": positions}

        def replacement(*args: Any, **kwargs: Any) -> Any:
            return (hidden,) if self._returns_tuple else hidden

        with contextlib.ExitStack() as stack:
            for layer in self.layers:
                stack.enter_context(self._replaced(layer, replacement))
            found: torch.Tensor = self.model(text[None], use_cache=False, **kept).logits[0].float()
        return found

    def _noting(self, index: int) -> Any:
        compute = self.layers[index].forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._arguments[index] = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            if index > 0:  # the form of its result is that of all
                given = args[0] if args else kwargs["hidden_states"]
                return (given,) if self._returns_tuple else given
            with self.layer(0):
                out = compute(*args, **kwargs)
            self._returns_tuple = isinstance(out, tuple)
            return out

        return forward

    @staticmethod
    @contextlib.contextmanager
    def _replaced(layer: torch.nn.Module, forward: Any) -> Iterator[None]:
        layer.forward = forward
        try:
            yield
        finally:
            del layer.forward

    def _check_names(self) -> None:
        tied = self.model.get_output_embeddings() if self.model.config.tie_word_embeddings else None
        for prefix, module in self.model.named_modules():
            for name, _ in () if module is tied else module.named_parameters(recurse=False):
                if f"{prefix}.{name}" not in self._parameters:
                    raise QuantizeError(f"transformers finds no weight for {prefix}.{name}")

    def _load(self, module: torch.nn.Module) -> None:
        prefix = next(name for name, known in self.model.named_modules() if known is module)
        for name, _ in list(module.named_parameters(recurse=False)):
            full = f"{prefix}.{name}" if prefix else name
            read = self._parameters.get(full)
            if read is None:  # tied to another one
                continue
            values = torch.from_numpy(np.require(read(), np.float32, ["C", "W"]))
            if values.shape != getattr(module, name).shape:
                raise QuantizeError(f"{full} has the shape {list(values.shape)}, which its architecture does not have")
            setattr(module, name, torch.nn.Parameter(values, requires_grad=False))


def empty_model(config: Any) -> Any:
    """Return transformers' causal model of a configuration, in float32 and without weights."""
    with quiet():
        from transformers import AutoModelForCausalLM
        from transformers.integrations.accelerate import init_empty_weights
        from transformers.modeling_utils import no_init_weights

        with init_empty_weights(include_buffers=False), no_init_weights():  # Mamba-2's cannot be without memory
            return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def _keep_rows(embedding: Any, tokens: torch.Tensor) -> None:
    """Leave an embedding the rows of these tokens."""
    kept = tokens.unique()
    embedding.weight = torch.nn.Parameter(embedding.weight[kept], requires_grad=False)
    embedding.padding_idx = None  # matters to gradients alone

    def place(module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return torch.searchsorted(kept, args[0]), *args[1:]

    embedding.register_forward_pre_hook(place)


def _config_of(checkpoint: Path) -> Any:
    """Read a canonical configuration, under the name by which transformers 4 knows the same blocks."""
    with quiet():
        from transformers import AutoConfig

        raw = dict(read_json(checkpoint / "config.json"))
        known = _SAME_BLOCKS.get(raw["model_type"])
        if known is None:
            return AutoConfig.from_pretrained(checkpoint)
        scaling = {key: value for key, value in (raw["rope_scaling"] or {}).items() if key != QUERY_SCALE}
        return AutoConfig.for_model(**{**raw, "model_type": known, "rope_scaling": scaling or None})


class _Reached(Exception):
    """The first layer was reached."""


@contextlib.contextmanager
def _hooked(layer: torch.nn.Module, hook: Any) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
