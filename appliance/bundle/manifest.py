"""The manifest of a bundle, manifest.json: parsed without any IO, and refused unless every field is valid.

Unknown fields survive a round trip, so that an older device keeps the fields that a newer workstation wrote.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from appliance.bundle.targets import ANY
from appliance.errors import BundleError

FORMAT_VERSION: Literal[1] = 1
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
MODEL_NAME = "model.onnx"
MODEL_DATA_NAME = "model.onnx.data"
TOKENIZER_NAME = "tokenizer.json"
CHAT_TEMPLATE_NAME = "chat_template.jinja"
LICENSE_NAME = "LICENSE"
REPORT_NAME = "report.html"
# Optional, for decoders whose graph has float K/V: what the device needs to keep K/V in int8 instead, where memory is
# short. Little-endian float32 (num_layers, 2, num_kv_heads * head_dim): of every layer that keeps any, the scales of
# keys (after rotation), then of values, one a channel. The device derives the int8 graph from model.onnx by itself.
KV_SCALES_NAME = "kv_scales.bin"

MAX_MANIFEST_BYTES = 1 << 20

FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
BundleName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,95}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MOST_COUNT = 1 << 31
Count = Annotated[int, Field(ge=1, le=MOST_COUNT)]
Prompt = Annotated[str, StringConstraints(max_length=4096)]
TargetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=())


class FileEntry(_Record):
    """One file of the bundle: a flat name, its size and its SHA-256."""

    name: FileName
    size_bytes: Annotated[int, Field(ge=0, le=1 << 40)]
    sha256: Sha256


class SamplingDefaults(_Record):
    """The sampling parameters of a chat request that sets none, as the checkpoint recommends them."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None


class DecoderSpec(_Record):
    """A causal language model whose graph is the one that engine/runtime/model_runner.py describes.

    If layers differ in their keys and values, `kv_shapes` has (heads, width) for each layer, and None for a layer that
    reads those of another one or has none; `num_kv_heads` and `head_dim` are then those of the first that has some. If
    the file stores weights in fewer bits than the engine computes with, `weights_bytes` is their size once loaded,
    and `loading_bytes` the memory that devices of 0.1.0 need to unpack them, or the most that they can read.
    """

    kind: Literal["decoder"] = "decoder"
    architecture: str
    context_length: Count
    vocab_size: Count
    num_layers: Count
    num_kv_heads: Count
    head_dim: Count
    kv_shapes: tuple[tuple[Count, Count] | None, ...] | None = None
    kv_cache_dtype: Literal["float32", "int8"] = "float32"
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = Field(min_length=1)
    weights_bytes: Annotated[int, Field(ge=1, le=1 << 40)] | None = None
    loading_bytes: Count | None = None
    sampling: SamplingDefaults = SamplingDefaults()

    @model_validator(mode="after")
    def _there_is_a_shape_for_each_layer(self) -> Self:
        if self.kv_shapes is not None and len(self.kv_shapes) != self.num_layers:
            raise ValueError(f"kv_shapes has {len(self.kv_shapes)} entries for {self.num_layers} layers")
        return self

    def kv_shape_of(self, layer: int) -> tuple[int, int] | None:
        """Return (heads, width) of the keys and values that a layer keeps; None for a layer that keeps none."""
        return (self.num_kv_heads, self.head_dim) if self.kv_shapes is None else self.kv_shapes[layer]


class EncoderSpec(_Record):
    """A text encoder whose graph returns unit vectors: pooling and normalization are inside.

    `prompts` are texts to put in front of an input, by the task of the input.
    """

    kind: Literal["encoder"] = "encoder"
    architecture: str
    dimensions: Count
    max_tokens: Count
    matryoshka_dimensions: tuple[int, ...] = ()
    prompts: dict[str, Prompt] = Field(default_factory=dict)
    default_prompt_name: str | None = None

    @model_validator(mode="after")
    def _the_default_prompt_is_there(self) -> Self:
        if self.default_prompt_name is not None and self.default_prompt_name not in self.prompts:
            raise ValueError(f"there is no prompt {self.default_prompt_name!r}, which is to be the default")
        return self


class RerankPrompt(_Record):
    """The text in which a causal model reads a query and a document.

    `before` and `after` may hold special tokens. `text`, between them, has the places {query}, {document} at its end,
    and {instruction} or not; `instruction` is the default for that place.
    """

    before: Prompt
    text: Prompt
    after: Prompt
    instruction: Prompt = ""

    @model_validator(mode="after")
    def _has_its_places(self) -> Self:
        places = re.findall(r"\{(query|document|instruction)\}", self.text)
        if sorted(place for place in places if place != "instruction") != ["document", "query"]:
            raise ValueError("the prompt's text needs one {query} and one {document}")
        if not self.text.endswith("{document}"):
            raise ValueError("the prompt's text has to end with {document}")
        if places.count("instruction") != (1 if self.instruction else 0):
            raise ValueError("the prompt's text needs one {instruction} if there is a default for it, else none")
        return self


class RerankerSpec(_Record):
    """A model whose graph returns one logit for a query and a document, as a pair or as one text of the prompt."""

    kind: Literal["reranker"] = "reranker"
    architecture: str
    max_tokens: Count
    prompt: RerankPrompt | None = None


ModelSpec = Annotated[DecoderSpec | EncoderSpec | RerankerSpec, Field(discriminator="kind")]


class Source(_Record):
    """The origin of the checkpoint, and its exact revision."""

    uri: str
    revision: str | None = None
    sha256: Sha256 | None = None


class Witness(_Record):
    """The evidence that the float model of the measurements is the published one.

    `by` is "transformers" if its outputs were compared, else "perplexity". It `read` the "source" itself, or the
    "canonical" checkpoint that the build made; `reason` tells why not the source. `difference` is the largest one
    between both, relative to the spread of the outputs, rounded up to a power of ten.
    """

    by: str
    read: str | None = None
    reason: str | None = None
    difference: float | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    overruled: bool = False


class EvalReport(_Record):
    """Measurements against the float model, on the engine of the device; bundles until 0.1.0 have no witness."""

    metrics: dict[str, float] = Field(default_factory=dict)
    text: str | None = None
    gates_overruled: bool = False
    witness: Witness | None = None


class Manifest(_Record):
    """Everything that a device needs before it opens any other file of the bundle.

    `built_for` names the boards that the bundle was built for (targets.py); it runs on every other one too.
    """

    format_version: Literal[1] = FORMAT_VERSION
    name: BundleName
    version: str = "1"
    model: ModelSpec
    files: tuple[FileEntry, ...] = Field(min_length=1, max_length=64)
    license: str
    source: Source
    recipe: dict[str, Any] = Field(default_factory=dict)
    evaluation: EvalReport = EvalReport()
    tools: dict[str, str] = Field(default_factory=dict)
    built_for: TargetName = ANY

    @field_validator("files")
    @classmethod
    def _names_are_unique(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        names = [f.name for f in files]
        if len(set(names)) != len(names):
            raise ValueError("a file is named twice")
        if {MANIFEST_NAME, SIGNATURE_NAME} & set(names):
            raise ValueError("a manifest cannot list itself or its signature")
        for needed in (MODEL_NAME, TOKENIZER_NAME):
            if needed not in names:
                raise ValueError(f"{needed} is missing")
        return files

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, without the manifest."""
        return sum(f.size_bytes for f in self.files)

    @property
    def loaded_bytes(self) -> int:
        """Bytes of the weights in memory."""
        files = sum(f.size_bytes for f in self.files if f.name in {MODEL_NAME, MODEL_DATA_NAME})
        unpacked = self.model.weights_bytes if isinstance(self.model, DecoderSpec) else None
        return max(files, unpacked or 0)

    def to_bytes(self) -> bytes:
        """Return canonical JSON: sorted keys, no blanks, UTF-8, a final newline."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse and validate.

        Raises:
            BundleError: not JSON, an unknown format version, or a field that is not valid.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise BundleError(f"the manifest has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are read")
        try:
            raw = json.loads(data)
        except (ValueError, RecursionError) as err:
            raise BundleError("the manifest is not JSON; build or copy the bundle again") from err
        found = raw.get("format_version") if isinstance(raw, dict) else None
        if found != FORMAT_VERSION:
            raise BundleError(f"the bundle has format {found!r}; this version reads format {FORMAT_VERSION}")
        try:
            return cls.model_validate(raw)
        except ValidationError as err:
            first = err.errors()[0]
            where = ".".join(str(x) for x in first["loc"])
            raise BundleError(f"the manifest's {where or 'content'} is not valid: {first['msg']}") from err


def canonical_json(value: object) -> bytes:
    """Return the canonical bytes of a JSON value, which are signed and hashed."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
