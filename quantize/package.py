"""The bundle: files with flat names, a manifest that says all about them, and a signature.

The same inputs give the same bytes.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from appliance.bundle import (
    DecoderSpec,
    EncoderSpec,
    EvalReport,
    FileEntry,
    Manifest,
    RerankerSpec,
    SigningKey,
    write_bundle,
)
from appliance.bundle.folder import describe_files
from appliance.bundle.manifest import (
    CHAT_TEMPLATE_NAME,
    KV_SCALES_NAME,
    LICENSE_NAME,
    MODEL_DATA_NAME,
    MODEL_NAME,
    TOKENIZER_NAME,
    SamplingDefaults,
)
from appliance.bundle.manifest import Source as SourceRecord
from appliance.errors import QuantizeError
from quantize.evaluation.findings import Findings
from quantize.evaluation.questions import chat_template
from quantize.licenses import license_of, license_text
from quantize.pipeline import tool_versions
from quantize.recipe import Recipe
from quantize.reporting.report import REPORT_NAME, report_page
from quantize.sources.checkpoint import read_json
from quantize.sources.decoder_config import DecoderConfig
from quantize.sources.encoder_config import EncoderConfig
from quantize.sources.sentence import SentenceLayout, pair_limit
from quantize.sources.source import Source

_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Everything that goes into one bundle."""

    recipe: Recipe
    source: Source
    checkpoint: Path
    model_folder: Path
    spec: DecoderSpec | EncoderSpec | RerankerSpec
    evaluation: EvalReport
    input_sha256: str
    findings: Findings
    kv_scales: Path | None = None


def assemble(parts: Ingredients, target: Path, key: SigningKey) -> None:
    """Fill an empty folder with the signed bundle.

    Raises:
        QuantizeError: the checkpoint lacks what a bundle needs.
    """
    names = [MODEL_NAME, MODEL_DATA_NAME]
    for name in names:
        shutil.copyfile(parts.model_folder / name, target / name)
    if parts.kv_scales is not None:
        shutil.copyfile(parts.kv_scales, target / KV_SCALES_NAME)
        names.append(KV_SCALES_NAME)
    (target / TOKENIZER_NAME).write_bytes(tokenizer_bytes(parts.checkpoint))
    names.append(TOKENIZER_NAME)
    template = chat_template(parts.checkpoint) if parts.spec.kind == "decoder" else None
    if template is not None:
        (target / CHAT_TEMPLATE_NAME).write_text(template, encoding="utf-8")
        names.append(CHAT_TEMPLATE_NAME)
    license_id = license_of(parts.recipe, parts.checkpoint)
    text = license_text(license_id, parts.checkpoint, parts.source.license_file)
    if text is not None:
        (target / LICENSE_NAME).write_bytes(text)
        names.append(LICENSE_NAME)
    draft = _manifest(parts, license_id, describe_files(target, names))
    (target / REPORT_NAME).write_bytes(report_page(draft, parts.findings))
    files = (*draft.files, *describe_files(target, [REPORT_NAME]))
    write_bundle(target, _manifest(parts, license_id, tuple(sorted(files, key=lambda file: file.name))), key)


def decoder_spec(config: DecoderConfig, checkpoint: Path, recipe: Recipe) -> DecoderSpec:
    """What a device must know of a causal model.

    Raises:
        QuantizeError: no token ends a turn, or the tokenizer is larger than the vocabulary.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME))
    _check_vocabulary(tokenizer, config.vocab_size)
    ends = {tokenizer.token_to_id(token) for token in _END_OF_TURN} | set(config.eos_token_ids)
    eos = tuple(sorted(token for token in ends if token is not None and token < config.vocab_size))
    if not eos:
        raise QuantizeError("neither config.json nor the tokenizer names a token that ends the text")
    return DecoderSpec(
        architecture=config.architecture,
        context_length=context_length(config, recipe),
        vocab_size=config.vocab_size,
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        bos_token_id=config.bos_token_id,
        eos_token_ids=eos,
        sampling=_sampling(checkpoint, recipe),
    )


def context_length(config: DecoderConfig, recipe: Recipe) -> int:
    """Tokens that the bundle's position tables cover."""
    return min(config.max_positions, recipe.context_length)


def encoder_spec(config: EncoderConfig, layout: SentenceLayout, checkpoint: Path, recipe: Recipe) -> EncoderSpec:
    """What a device must know of a text encoder; the recipe's prompts take the place of the checkpoint's.

    Raises:
        QuantizeError: the tokenizer is larger than the vocabulary, or the default prompt is not there.
    """
    _check_vocabulary(Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME)), config.vocab_size)
    prompts = recipe.prompts or dict(layout.prompts)
    default = recipe.default_prompt_name or (None if recipe.prompts else layout.default_prompt_name)
    try:
        return EncoderSpec(
            architecture=config.architecture,
            dimensions=config.hidden_size,
            max_tokens=layout.max_tokens,
            prompts=prompts,
            default_prompt_name=default,
        )
    except ValidationError as err:
        raise QuantizeError(f"the prompts are not valid: {err.errors()[0]['msg']}") from err


def reranker_spec(config: EncoderConfig, checkpoint: Path) -> RerankerSpec:
    """What a device must know of a cross-encoder."""
    _check_vocabulary(Tokenizer.from_file(str(checkpoint / TOKENIZER_NAME)), config.vocab_size)
    return RerankerSpec(architecture=config.architecture, max_tokens=pair_limit(checkpoint, config))


def tokenizer_bytes(checkpoint: Path) -> bytes:
    """tokenizer.json that neither truncates nor pads; unchanged where it does not."""
    path = checkpoint / TOKENIZER_NAME
    raw = read_json(path)
    if raw.get("truncation") is None and raw.get("padding") is None:
        return path.read_bytes()
    raw["truncation"] = raw["padding"] = None
    return json.dumps(raw, ensure_ascii=False, indent=2).encode() + b"\n"


def _manifest(parts: Ingredients, license_id: str, files: tuple[FileEntry, ...]) -> Manifest:
    return Manifest(
        name=parts.recipe.name,
        model=parts.spec,
        files=files,
        license=license_id,
        source=SourceRecord(uri=parts.source.uri, revision=parts.source.revision, sha256=parts.source.sha256),
        recipe={**_portable(parts.recipe, parts.source), "input_sha256": parts.input_sha256},
        evaluation=parts.evaluation,
        tools=tool_versions(),
    )


def _portable(recipe: Recipe, source: Source) -> dict[str, object]:
    """The recipe without any path of this machine."""
    fields: dict[str, object] = recipe.model_dump(mode="json", exclude_none=True)
    fields["calibration"] = recipe.calibration.identity()
    fields["evaluation"] = recipe.evaluation.identity()
    fields["source"] = {**recipe.source.model_dump(mode="json", exclude_none=True), "uri": source.uri}
    return fields


def _sampling(checkpoint: Path, recipe: Recipe) -> SamplingDefaults:
    """The recipe's word, else what generation_config.json recommends."""
    path = checkpoint / "generation_config.json"
    if recipe.sampling != SamplingDefaults() or not path.is_file():
        return recipe.sampling
    raw = read_json(path)
    if raw.get("do_sample") is not True:
        return recipe.sampling
    try:
        return SamplingDefaults.model_validate({name: raw.get(name) for name in ("temperature", "top_p", "top_k")})
    except ValidationError as err:
        raise QuantizeError(f"generation_config.json recommends what is not valid: {err.errors()[0]['msg']}") from err


def _check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    known = tokenizer.get_vocab_size(with_added_tokens=False)
    if known > vocab_size:
        raise QuantizeError(f"the tokenizer has {known} tokens, but config.json says {vocab_size}")
