"""A recipe: everything that decides the bytes of a bundle, apart from the checkpoint itself."""

from __future__ import annotations

import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from appliance.bundle.manifest import BundleName, Prompt, RerankPrompt, SamplingDefaults, Sha256
from appliance.bundle.targets import ANY, Target
from appliance.errors import ConfigError, QuantizeError

Scheme = Literal["auto", "int4", "int8", "packed"]
ExportWay = Literal["auto", "optimum", "direct"]

SEARCHED: frozenset[Scheme] = frozenset({"auto", "packed"})  # a search chooses the widths
DEFAULT_MAX_KL = 0.02
_MAX_NAME_CHARACTERS = 96  # as the manifest has it

RECIPES = Path(__file__).parent / "recipes"
STARTER_NAMES = ("smollm2-135m-instruct", "all-minilm-l6-v2")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourcePart(_Part):
    """The checkpoint's origin; `sha256` pins a downloaded file, `path` names the model within it.

    `parts` are wheels that each hold a piece of one GGUF file, which `sha256` then pins; `license_path` names the
    licence's text within the wheel that `uri` names.
    """

    uri: str
    revision: str | None = None
    sha256: Sha256 | None = None
    path: str | None = None
    parts: tuple[str, ...] = ()
    license_path: str | None = None


class WeightsPart(_Part):
    """The form of stored matrices; `smoothing` is the share of their inputs' unevenness that they take over.

    `int8`, `int6` and `int5` hold patterns (fnmatch) of the names to which an int4 decoder gives more bits. `auto`
    finds those in int8: the smallest file with a KL of at most `max_kl`, or the best one of at most `max_mb` (1e6 bytes
    of model.onnx and its data). `packed` does so with 5 and 6 bits as well. Lantern's kernels read these as they are;
    the stock operators compute them as int8. `head` is the form of an int4 decoder's head, which every token reads
    whole.
    """

    scheme: Scheme = "int8"
    int8: tuple[str, ...] = ("*/k_proj", "*/v_proj")
    int6: tuple[str, ...] = ()
    int5: tuple[str, ...] = ()
    head: Literal["int8", "int6", "int5", "int4"] = "int8"
    max_kl: Annotated[float, Field(gt=0)] | None = None
    max_mb: Annotated[float, Field(gt=0)] | None = None
    smoothing: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def is_searched(self) -> bool:
        """True if a search chooses the widths."""
        return self.scheme in SEARCHED

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        if not self.is_searched and (self.max_kl or self.max_mb):
            raise ValueError("max_kl and max_mb are for the schemes auto and packed")
        if self.max_kl and self.max_mb:
            raise ValueError("give max_kl or max_mb, not both")
        if self.scheme != "int4" and (self.head != "int8" or self.int6 or self.int5):
            raise ValueError("int6, int5 and the head's form are for the scheme int4")
        return self


class CalibrationPart(_Part):
    """The text to which weights are fitted: windows of tokens from prose, code and the model's own chat.

    With `file`, a UTF-8 text replaces all three.
    """

    num_windows: Annotated[int, Field(ge=1, le=512)] = 48
    window_tokens: Annotated[int, Field(ge=16, le=4096)] = 256
    seed: int = 0
    file: str | None = None

    def own_text(self) -> str | None:
        """Read the content of `file`.

        Raises:
            QuantizeError: absent, or not UTF-8.
        """
        if self.file is None:
            return None
        try:
            return Path(self.file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            raise QuantizeError(f"the calibration text {self.file} cannot be read as UTF-8") from err

    def identity(self) -> dict[str, object]:
        """Return the fields that decide the windows, the file by its content and without any path of this machine."""
        fields: dict[str, object] = self.model_dump(exclude={"file"}, mode="json")
        text = self.own_text()
        if text is not None:
            fields["text_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return fields


class EvaluationPart(_Part):
    """The measurements beyond the built-in text: `similarity` is a file of sentence pairs that people have rated."""

    similarity: str | None = None

    def identity(self) -> dict[str, object]:
        """Return the file by its content, without any path of this machine.

        Raises:
            QuantizeError: it cannot be read.
        """
        if self.similarity is None:
            return {}
        try:
            return {"similarity_sha256": hashlib.sha256(Path(self.similarity).read_bytes()).hexdigest()}
        except OSError as err:
            raise QuantizeError(f"the rated sentences {self.similarity} cannot be read: {err.strerror}") from err


class ScoringPart(_Part):
    """The prompt of a reranker that writes a word, and the tokens whose logits tell if a document is relevant."""

    prompt: RerankPrompt
    yes: str = "yes"
    no: str = "no"

    @model_validator(mode="after")
    def _prompt_has_no_more(self) -> Self:
        if self.prompt.model_extra:
            raise ValueError(f"prompt has {next(iter(self.prompt.model_extra))!r}, which is not known")
        return self


class GatesPart(_Part):
    """The figures that the evaluation must reach; an absent gate passes everything."""

    max_kl: Annotated[float, Field(gt=0)] | None = None
    min_top1: Annotated[float, Field(gt=0, le=1)] | None = None
    min_cosine_mean: Annotated[float, Field(gt=0, le=1)] | None = None
    min_cosine: Annotated[float, Field(gt=0, le=1)] | None = None
    min_order: Annotated[float, Field(gt=0, le=1)] | None = None


class Recipe(_Part):
    """One TOML file of `recipes/`, or the fields of the command line instead.

    `target` names the boards that the bundle is for: a search and the gates measure by the arithmetic of their
    processors. `prompts` replace those of an encoder's checkpoint, which may have none; `matryoshka_dimensions` are the
    lengths to which its vectors may be cut. `scoring` makes a reranker of a causal model. `export` is the way to the
    float graph; both ways give the same graph, so that the choice is no part of the bundle's identity. `measured` holds
    the figures of a bundle that this recipe made; it is empty if there was none.
    """

    name: BundleName
    why: str = ""
    measured: str = ""
    license: str | None = None
    context_length: Annotated[int, Field(ge=16, le=1 << 20)] = 8192
    target: Target = ANY
    export: ExportWay = "auto"
    source: SourcePart
    weights: WeightsPart = WeightsPart()
    calibration: CalibrationPart = CalibrationPart()
    sampling: SamplingDefaults = SamplingDefaults()
    prompts: dict[str, Prompt] = Field(default_factory=dict)
    default_prompt_name: str | None = None
    matryoshka_dimensions: tuple[Annotated[int, Field(ge=1)], ...] = ()
    scoring: ScoringPart | None = None
    evaluation: EvaluationPart = EvaluationPart()
    gates: GatesPart = GatesPart()

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a TOML file.

        Raises:
            QuantizeError: absent, not TOML, or a field that is not valid.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as err:
            raise QuantizeError(f"there is no recipe at {path}") from err
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
            raise QuantizeError(f"{path.name} is not a TOML file: {err}") from err
        except ValidationError as err:
            raise _refused(err, path.name) from err

    @classmethod
    def create(cls, **fields: object) -> Recipe:
        """Validate fields that came from the command line.

        Raises:
            QuantizeError: a field that is not valid.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as err:
            raise _refused(err, "the command line") from err

    def changed(self, changes: Mapping[str, object]) -> Recipe:
        """Return the recipe with other values, named like "weights.max_kl"; None leaves a value unchanged.

        A scheme without a search drops the recipe's target, and one that is not int4 its int4 head.

        Raises:
            QuantizeError: a field that is not valid.
        """
        fields = self.model_dump()
        if changes.get("weights.scheme") not in {None, *SEARCHED}:
            fields["weights"] |= {"max_kl": None, "max_mb": None}
        if changes.get("weights.scheme") not in {None, "int4"}:
            fields["weights"]["head"] = "int8"
        for name, value in changes.items():
            part, _, field = name.rpartition(".")
            if value is not None:
                (fields[part] if part else fields)[field] = str(value) if isinstance(value, Path) else value
        return Recipe.create(**fields)


def shipped_recipe(name: str) -> Recipe:
    """Load the recipe of this name that comes with Lantern.

    Raises:
        QuantizeError: there is none.
    """
    return Recipe.load(RECIPES / f"{name}.toml")


def choose_recipe(path: Path | None, source: str | None) -> Recipe:
    """Load the recipe of a file, or of the shipped one that SOURCE names, or make one for SOURCE with the defaults.

    Raises:
        ConfigError: neither is given.
        QuantizeError: the recipe is not valid.
    """
    if path is not None:
        recipe = Recipe.load(path)
        return recipe if source is None else recipe.model_copy(update={"source": SourcePart(uri=source)})
    if source is None:
        raise ConfigError("nothing to build; give a SOURCE or --recipe FILE")
    if (RECIPES / f"{source}.toml").is_file() and not Path(source).exists():
        return shipped_recipe(source)
    return Recipe.create(name=default_name(source), source={"uri": source})


def default_name(uri: str) -> str:
    """Return a valid bundle name made of a source's last part: `My Model v1.5 (final)` gives my-model-v1.5-final."""
    stem = uri.removeprefix("pypi:").split("==")[0].rstrip("/").rsplit("/", 1)[-1]
    stem = re.sub(r"(-\d{5}-of-\d{5})?\.(gguf|zip)(\.(part)?\d+)?$", "", stem, flags=re.IGNORECASE)
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9._]+", "-", plain)
    return words.strip("._-")[:_MAX_NAME_CHARACTERS].strip("._-") or "model"


def _refused(err: ValidationError, where: str) -> QuantizeError:
    first = err.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return QuantizeError(f"{field or 'the recipe'} in {where} is not valid: {first['msg']}")
