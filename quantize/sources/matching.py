"""A file's tensors held against those that a model has: each is used once, known not to matter, or refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from appliance.errors import QuantizeError
from quantize.sources.census import EMBEDDING, HEAD, INV_FREQ, Shapes, canonical_name, other_part
from quantize.sources.decoder_keys import DecoderKeys
from quantize.sources.encoder_census import POSITION_IDS, PREFIXES, unused
from quantize.sources.encoder_config import EncoderKeys
from quantize.sources.families import DECODERS
from quantize.sources.gemma4 import FAMILY as GEMMA4
from quantize.sources.gemma4 import unused_tensor
from quantize.sources.nemotron import FAMILY as NEMOTRON
from quantize.sources.nemotron import published_name
from quantize.sources.quantized import ACTIVATION_SCALES, SCALES, Fp8, check_scale
from quantize.sources.rope import plain_frequencies
from quantize.sources.tensors import FLOATS, Tensor

_HEADS_OF_TASKS = ("classifier.", "head.", "cls.", "lm_head.", "decoder.")
_BODY = "model."  # before the names of a causal model without its head
_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
_COMPARED_BYTES = 64 << 20
_INV_FREQ_TOLERANCE = 1e-2  # a buffer in bfloat16 has three digits


@dataclass(frozen=True, slots=True)
class Weights:
    """Every tensor of the model by its canonical name, the scales of those in FP8, and what was left out.

    `as_stored`: the files hold them under names and in types that transformers reads to the same model.
    """

    tensors: Mapping[str, Tensor]
    left_out: Mapping[str, str]
    as_stored: bool = True
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    block: tuple[int, int] | None = None


def match_decoder(
    found: Mapping[str, Tensor], keys: DecoderKeys, shapes: Shapes, quantization: Fp8 | None, *, is_body: bool = False
) -> Weights:
    """Match the tensors of a causal model; those of a body alone may lack the prefix before its name.

    Raises:
        QuantizeError: naming a tensor that is missing, left over, or of another shape or type.
    """
    family, left_out, named = str(keys.config["model_type"]), dict[str, str](), dict[str, Tensor]()
    for name, tensor in found.items():
        plain = canonical_name(name, family)
        if is_body and plain != HEAD and not plain.startswith(_BODY):
            plain = f"{_BODY}{plain}"
        unused = unused_tensor(keys.config, plain) if family == GEMMA4 and plain not in shapes else None
        if why := other_part(name) or unused:
            left_out[name] = why
        elif plain in named:
            raise QuantizeError(f"{name} and {named[plain].name} are the same tensor twice; keep the right one")
        elif INV_FREQ.fullmatch(plain) and "rope_theta" in keys.config:
            _check_frequencies(tensor, keys)
            left_out[name] = "the frequencies that config.json gives"
        else:
            named[plain] = tensor
    if is_body and HEAD in named:
        left_out[named.pop(HEAD).name] = "predicts tokens, which no vector needs"
    elif HEAD in named and HEAD not in shapes:
        _check_tied(named, stated=keys.tie_is_stated)
        left_out[named.pop(HEAD).name] = "the embedding once more"
    if HEAD in shapes and HEAD not in named and EMBEDDING in named:
        says = "says that it is not tied to the embedding" if keys.tie_is_stated else "has no tie_word_embeddings"
        raise QuantizeError(f"the weights have no {HEAD}, and config.json {says}; copy the checkpoint again")
    asked = _Asked(shapes, family, keys.defaulted)
    return _matched(named, asked, left_out, quantization)


def match_encoder(
    found: Mapping[str, Tensor], keys: EncoderKeys, shapes: Shapes, *, is_reranker: bool, quantization: Fp8 | None
) -> Weights:
    """Match the tensors of a text encoder, with or without the prefix that task heads add.

    Raises:
        QuantizeError: naming a tensor that is missing, left over, or of another shape or type.
    """
    config = keys.config
    prefix, left_out, named = PREFIXES[config.architecture], dict[str, str](), dict[str, Tensor]()
    prefixed = set()
    for name, tensor in found.items():
        plain = name.removeprefix(prefix)
        if plain in named:
            raise QuantizeError(f"{name} and {named[plain].name} are the same tensor twice; keep the right one")
        if plain == POSITION_IDS:
            _check_position_ids(tensor)
            left_out[name] = "positions count from 0"
        elif plain not in shapes and (why := unused(plain, config, is_reranker=is_reranker)):
            left_out[name] = why
        else:
            named[plain] = tensor
            if not plain.startswith(_HEADS_OF_TASKS):
                prefixed.add(plain != name)
    asked = _Asked(shapes, config.architecture, keys.defaulted, prefix if True in prefixed else "")
    weights = _matched(named, asked, left_out, quantization)
    if len(prefixed) == 1 and (not is_reranker or True in prefixed):
        return weights
    renamed = {
        f"{prefix}{name}" if is_reranker and not name.startswith(_HEADS_OF_TASKS) else name: tensor
        for name, tensor in weights.tensors.items()
    }
    return Weights(renamed, weights.left_out, False, weights.scales, weights.block)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The tensors that config.json asks for, and its absent keys, which may be the reason of a difference."""

    shapes: Shapes
    family: str
    defaulted: tuple[str, ...]
    prefix: str = ""

    @property
    def hint(self) -> str:
        """Return the absent keys as part of a sentence."""
        return f" (it has no {', '.join(self.defaulted)})" if self.defaulted else ""

    def stored_name(self, name: str) -> str:
        """Return the name by which a file would hold a tensor."""
        if self.family == NEMOTRON:
            return published_name(name)
        return name if name.startswith(_HEADS_OF_TASKS) else f"{self.prefix}{name}"


def _matched(named: dict[str, Tensor], asked: _Asked, left_out: dict[str, str], quantization: Fp8 | None) -> Weights:
    shapes, family = asked.shapes, asked.family
    scales = {} if quantization is None else _scales(named, shapes, left_out, quantization)
    for name, shape in shapes.items():
        tensor = named.get(name)
        if tensor is not None and tensor.shape != shape:
            raise QuantizeError(
                f"{tensor.name} has the shape {list(tensor.shape)}, but config.json says {list(shape)}{asked.hint}"
            )
        if tensor is not None and tensor.dtype not in FLOATS and name not in scales:
            raise QuantizeError(_wrong_type(tensor, quantization))
    _check_layers(named, shapes)
    unknown = next((tensor for name, tensor in named.items() if name not in shapes), None)
    missing = next((name for name in shapes if name not in named), None)
    if unknown is not None:
        lacking = f", and {asked.stored_name(missing)} is missing" if missing else ""
        raise QuantizeError(
            f"{unknown.name} in {unknown.path.name} is no part of the {family} that config.json describes{asked.hint}"
            f"{lacking}; remove the tensor if the model computes the same without it"
        )
    if missing is not None:
        name = asked.stored_name(missing)
        raise QuantizeError(f"the weights have no {name}, which {family} needs{asked.hint}; copy the checkpoint again")
    as_stored = not scales and all(name == tensor.name or family not in DECODERS for name, tensor in named.items())
    block = None if quantization is None else quantization.block
    return Weights({name: named[name] for name in shapes}, left_out, as_stored, scales, block)


def _wrong_type(tensor: Tensor, quantization: Fp8 | None) -> str:
    if tensor.dtype.startswith("F8") and quantization is None:
        return f"{tensor.name} is stored in FP8, but config.json has no quantization_config that says how to scale it"
    if tensor.dtype.startswith("F8"):
        return f"{tensor.name} is stored in FP8 without {tensor.name}_scale or {tensor.name}_scale_inv beside it"
    return f"{tensor.name} is stored as {tensor.dtype}; {', '.join(sorted(FLOATS))} and scaled FP8 are known"


def _check_layers(named: Mapping[str, Tensor], shapes: Shapes) -> None:
    """Say it in one word where config.json and the weights differ in the number of layers."""
    counts = [{int(match[1]) for name in names if (match := _LAYER.search(name))} for names in (named, shapes)]
    held, asked = (max(indices, default=-1) + 1 for indices in counts)
    if held and held != asked:
        raise QuantizeError(f"the weights have {held} layers, but config.json says {asked}")


def _scales(named: dict[str, Tensor], shapes: Shapes, left_out: dict[str, str], quantization: Fp8) -> dict[str, Tensor]:
    """Take the scales of FP8 weights out of the tensors."""
    found: dict[str, Tensor] = {}
    for name in list(named):
        ending = next((end for end in (*SCALES, *ACTIVATION_SCALES) if name.endswith(end)), None)
        if ending is None:
            continue
        weight = f"{name.removesuffix(ending)}.weight"
        if weight not in named or weight not in shapes or not named[weight].dtype.startswith("F8"):
            continue
        if ending in ACTIVATION_SCALES:
            left_out[named.pop(name).name] = "scales activations, which stay float"
            continue
        if weight in found:
            raise QuantizeError(f"{name} and {found[weight].name} scale the same weight; keep the right one")
        if len(named[weight].shape) != 2:
            raise QuantizeError(f"{weight} has the shape {list(named[weight].shape)}; FP8 is known for matrices")
        check_scale(named[weight], named[name], quantization.block)
        found[weight] = named.pop(name)
    return found


def _check_tied(named: Mapping[str, Tensor], *, stated: bool) -> None:
    """Refuse a head that differs from the embedding to which it is tied."""
    head, embedding = named[HEAD], named.get(EMBEDDING)
    if embedding is None:
        return
    is_same = (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
    left, right = head.raw(), embedding.raw()
    for start in range(0, head.size_bytes if is_same else 0, _COMPARED_BYTES):
        part = slice(start, start + _COMPARED_BYTES)
        is_same = is_same and np.array_equal(left[part], right[part])
    if not is_same:
        says = "ties it to the embedding" if stated else "has no tie_word_embeddings"
        raise QuantizeError(f"{HEAD} differs from {EMBEDDING}, but config.json {says}; set tie_word_embeddings")


def _check_frequencies(tensor: Tensor, keys: DecoderKeys) -> None:
    """Refuse stored frequencies that are not those of config.json."""
    config = keys.config
    theta = config["rope_local_base_freq"] if "_local" in tensor.name else config["rope_theta"]
    dim = int(config["head_dim"] * config.get("partial_rotary_factor", 1.0))
    plain = plain_frequencies(theta, dim)
    is_known = tensor.dtype in FLOATS and tensor.shape == plain.shape
    if not is_known or not np.allclose(tensor.load(), plain, rtol=_INV_FREQ_TOLERANCE, atol=0):
        raise QuantizeError(
            f"{tensor.name} in {tensor.path.name} differs from what rope_theta {theta:g} gives; "
            "remove the tensor if config.json is right"
        )


def _check_position_ids(tensor: Tensor) -> None:
    values = tensor.load() if tensor.dtype in ("I64", "I32") else np.zeros(0)
    if not values.size or not np.array_equal(values.reshape(-1), np.arange(values.size)):
        raise QuantizeError(f"{tensor.name} in {tensor.path.name} does not count from 0, which is not known")
