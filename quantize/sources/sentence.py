"""The sentence-transformers folder around a checkpoint: how hidden states become one vector, and how long texts are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from appliance.errors import QuantizeError
from quantize.sources.dense import Dense, dense_files, read_dense
from quantize.sources.fields import Fields, read_json, shown
from quantize.sources.folder import inside
from quantize.sources.modalities import check_modalities
from quantize.sources.modules import MODULES_NAME, Module, read_modules

Pooling = Literal["mean", "cls", "lasttoken"]
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "lasttoken"}
_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_TRANSFORMER, _POOLING, _DENSE, _NORMALIZE = "Transformer", "Pooling", "Dense", "Normalize"
_LENGTH_NAME = "sentence_bert_config.json"
_PROMPTS_NAME = "config_sentence_transformers.json"
_POOLING_NAME = "1_Pooling/config.json"
_ORIGIN = "tells where the file comes from"
_LENGTH_IGNORED = {
    "model_args": "tells Python how to load the model",
    "config_args": "tells Python how to load the model",
    "tokenizer_args": "tells Python how to load the model",
    "processing_kwargs": "tells Python how to load the model",
    "tokenizer_name_or_path": _ORIGIN,
    "cache_dir": _ORIGIN,
}
_PROMPTS_IGNORED = {
    "__version__": _ORIGIN,
    "model_type": _ORIGIN,
    "requirements": "names the versions of Python packages",
    "similarity_fn_name": "vectors have unit length, so that all of them give the same order",
    "truncate_dim": "a request says how many dimensions it wants",
}


class TextConfig(Protocol):
    """The configuration of a model whose hidden states become a vector."""

    @property
    def output_size(self) -> int:
        """The width of what the model gives for a token."""

    @property
    def max_positions(self) -> int:
        """The tokens of the longest text."""


@dataclass(frozen=True, slots=True)
class SentenceLayout:
    """The sentence-transformers files; `prompts` come in front of a text, by what it is for.

    `dense` are the modules between pooling and normalization, in order.
    """

    pooling: Pooling
    max_tokens: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    dense: tuple[Dense, ...] = ()

    def dimensions(self, output_size: int) -> int:
        """Return the length of a vector, by the width of what the model gives for a token."""
        return self.dense[-1].num_outputs if self.dense else output_size

    def vector(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the unit vector (D,) of what the model gives for one text (T, width)."""
        match self.pooling:
            case "mean":
                found = hidden.mean(axis=0)
            case "cls":
                found = hidden[0]
            case "lasttoken":
                found = hidden[-1]
        for dense in self.dense:
            found = dense.apply(found)
        return np.asarray(found / np.linalg.norm(found), np.float32)


def read_layout(folder: Path, config: TextConfig) -> SentenceLayout:
    """Parse modules.json, the config.json of each module and sentence_bert_config.json.

    Raises:
        QuantizeError: a module, pooling or key that the graph cannot do.
    """
    modules = _checked_modules(folder)
    pooling, includes_prompt = _pooling(folder, config, _place(modules[1]))
    limit = _length(folder)
    dense: list[Dense] = []
    for module in modules[2:]:
        if module.kind == _DENSE:
            width = dense[-1].num_outputs if dense else config.output_size
            dense.append(read_dense(folder, module.place, width))
    prompts, default = _prompts(folder)
    if any(prompts.values()) and not includes_prompt:
        raise QuantizeError(f"include_prompt in {_POOLING_NAME} leaves prompts out of the mean, which is not known")
    longest = min(config.max_positions, limit or config.max_positions)
    return SentenceLayout(pooling, longest, prompts, default, tuple(dense))


def layout_files(folder: Path) -> list[str]:
    """Return the names of the files that `read_layout` reads, as far as they are there."""
    names = [MODULES_NAME, _LENGTH_NAME, _PROMPTS_NAME]
    if inside(folder, MODULES_NAME).is_file():
        modules = _checked_modules(folder)
        names.append(f"{_place(modules[1])}/config.json")
        names += [name for module in modules if module.kind == _DENSE for name in dense_files(module.place)]
    return [name for name in names if inside(folder, name).is_file()]


def _pooling(folder: Path, config: TextConfig, place: str) -> tuple[Pooling, bool]:
    """Return the pooling, and True unless the tokens of prompts are left out of it."""
    name = f"{place}/config.json"
    fields = Fields(read_json(inside(folder, name)), name, "a pooling")
    modes = {mode for key, mode in _MODES.items() if fields.has(key) and fields.flag(key)}
    for key in _MODES:
        fields.value(key)
    stated = fields.value("pooling_mode")  # sentence-transformers 5.4
    modes |= {str(mode).removesuffix("_tokens") for mode in (stated if isinstance(stated, list) else [stated]) if mode}
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if fields.has(key) and fields.count(key) != config.output_size:
            raise QuantizeError(f"{key} in {name} is {fields.count(key)}, but config.json says {config.output_size}")
        fields.value(key)
    includes_prompt = fields.flag("include_prompt", True)
    fields.left_out({})
    if len(modes) != 1 or not modes <= set(_POOLINGS):
        asked = " and ".join(sorted(key for key, mode in _MODES.items() if mode in modes) or sorted(modes))
        raise QuantizeError(f"{name} asks for {asked or 'no pooling'}; {', '.join(_POOLINGS)} are known")
    return _POOLINGS[modes.pop()], includes_prompt


def _length(folder: Path) -> int | None:
    """Return the tokens at which sentence-transformers cuts a text, if it says so."""
    path = inside(folder, _LENGTH_NAME)
    fields = Fields(read_json(path) if path.is_file() else {}, _LENGTH_NAME, "sentence-transformers")
    fields.fixed("transformer_task", "feature-extraction")
    fields.fixed("module_output_name", "token_embeddings")
    check_modalities(fields, folder)
    fields.fixed("do_lower_case", False)  # a text is given to the tokenizer as it is
    fields.fixed("unpad_inputs", True)
    length = fields.count("max_seq_length") if fields.has("max_seq_length") else None
    fields.value("max_seq_length")
    fields.left_out(_LENGTH_IGNORED)
    return length


def pair_limit(folder: Path, config: TextConfig) -> int:
    """Return the tokens of a query and a document together: the tokenizer's limit, within the model's positions."""
    path = folder / "tokenizer_config.json"
    length = read_json(path).get("model_max_length") if path.is_file() else None
    return min(config.max_positions, length) if isinstance(length, int) and length > 0 else config.max_positions


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """Return the prompts, and the name of the one that is used where none is named."""
    path = inside(folder, _PROMPTS_NAME)
    fields = Fields(read_json(path) if path.is_file() else {}, _PROMPTS_NAME, "sentence-transformers")
    prompts, default = fields.value("prompts") or {}, fields.value("default_prompt_name")
    fields.left_out(_PROMPTS_IGNORED)
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise QuantizeError(f"prompts in {_PROMPTS_NAME} is {shown(prompts)}; an object of texts is needed")
    if default is not None and default not in prompts:
        raise QuantizeError(f"{_PROMPTS_NAME} has no prompt {default!r}, which is to be the default")
    # An empty prompt changes nothing, yet clients may name it.
    return {str(name): text for name, text in prompts.items()}, default


def _checked_modules(folder: Path) -> tuple[Module, ...]:
    """Return the modules: Transformer, Pooling, any number of Dense, and Normalize or not.

    Raises:
        QuantizeError: another module, or another order.
    """
    modules = read_modules(folder)
    kinds = [module.kind for module in modules]
    behind = kinds[2:-1] if kinds[-1:] == [_NORMALIZE] else kinds[2:]
    if kinds[:2] != [_TRANSFORMER, _POOLING] or any(kind != _DENSE for kind in behind):
        raise QuantizeError(
            f"modules.json lists {', '.join(kinds) or 'nothing'}; "
            f"{_TRANSFORMER}, {_POOLING}, {_DENSE} and {_NORMALIZE} are known, in this order"
        )
    if any(module.kind == _DENSE and not module.place for module in modules):
        raise QuantizeError(f"modules.json lists a module {_DENSE} without its path")
    return modules


def _place(pooling: Module) -> str:
    return pooling.place or "1_Pooling"
