"""The bundle: files with flat names, a manifest that describes them, and a signature.

The same inputs give the same bytes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle import Bundle, EvalReport, FileEntry, Manifest, SigningKey, TrustedKeys, open_bundle, write_bundle
from appliance.bundle.folder import describe_files
from appliance.bundle.manifest import CHAT_TEMPLATE_NAME, LICENSE_NAME, TOKENIZER_NAME
from appliance.bundle.manifest import Source as SourceRecord
from quantize.evaluation.findings import Findings
from quantize.evaluation.questions import chat_template
from quantize.licenses import license_of, license_text
from quantize.pipeline import replace_folder, tool_versions
from quantize.recipe import Recipe
from quantize.reporting.report import REPORT_NAME, report_page
from quantize.sources.checkpoint import read_json
from quantize.sources.decoder_config import read_decoder_config
from quantize.sources.source import Source
from quantize.spec import ModelSpec

VERSION = 2  # part of every bundle's identity; raise it when `assemble` writes something else


@dataclass(frozen=True, slots=True)
class Ingredients:
    """The content of one bundle; `model_files` maps names in the bundle to the files that are copied."""

    recipe: Recipe
    source: Source
    checkpoint: Path
    model_files: Mapping[str, Path]
    spec: ModelSpec
    evaluation: EvalReport
    findings: Findings
    input_sha256: str

    @property
    def size_bytes(self) -> int:
        """The size of the model's files."""
        return sum(path.stat().st_size for path in self.model_files.values())


def package_into(parts: Ingredients, out: Path, key: SigningKey, trusted: TrustedKeys) -> Bundle:
    """Assemble OUT/NAME, open it as a device does, and only then replace an older one.

    Raises:
        QuantizeError: the checkpoint lacks what a bundle needs.
        BundleError: the device's check fails.
    """
    name = parts.recipe.name
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}-") as temporary:
        fresh = Path(temporary) / name
        fresh.mkdir()
        assemble(parts, fresh, key)
        open_bundle(fresh, trusted)
        replace_folder(fresh, out / name)
    return open_bundle(out / name, trusted)


def assemble(parts: Ingredients, target: Path, key: SigningKey) -> None:
    """Fill an empty folder with the signed bundle.

    Raises:
        QuantizeError: the checkpoint lacks what a bundle needs.
    """
    names = list(parts.model_files)
    for name, path in parts.model_files.items():
        shutil.copyfile(path, target / name)
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


def tokenizer_bytes(checkpoint: Path) -> bytes:
    """Return tokenizer.json without truncation and padding, byte for byte if it has neither."""
    path = checkpoint / TOKENIZER_NAME
    raw = read_json(path)
    if raw.get("truncation") is None and raw.get("padding") is None:
        return path.read_bytes()
    raw["truncation"] = raw["padding"] = None
    return json.dumps(raw, ensure_ascii=False, indent=2).encode() + b"\n"


def _manifest(parts: Ingredients, license_id: str, files: tuple[FileEntry, ...]) -> Manifest:
    limit = read_decoder_config(parts.checkpoint).limit if parts.spec.kind == "decoder" else None
    return Manifest(
        name=parts.recipe.name,
        model=parts.spec,
        files=files,
        license=license_id,
        source=SourceRecord(uri=parts.source.uri, revision=parts.source.revision, sha256=parts.source.sha256),
        recipe={**_portable(parts.recipe, parts.source, limit), "input_sha256": parts.input_sha256},
        evaluation=parts.evaluation,
        tools=tool_versions(),
        built_for=parts.recipe.target,
    )


def _portable(recipe: Recipe, source: Source, limit: str | None) -> dict[str, object]:
    """Return the recipe without any path of this machine, with the reason why the context is shorter than published."""
    fields: dict[str, object] = recipe.model_dump(mode="json", exclude_none=True, exclude={"measured"})
    fields["calibration"] = recipe.calibration.identity()
    fields["evaluation"] = recipe.evaluation.identity()
    if limit is not None:
        fields["context_limit"] = limit
    fields["source"] = {**recipe.source.model_dump(mode="json", exclude_none=True), "uri": source.uri}
    return fields
