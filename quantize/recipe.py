"""A recipe: everything that decides which bytes a bundle gets, apart from the checkpoint itself."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.bundle.manifest import BundleName, SamplingDefaults, Sha256
from appliance.errors import QuantizeError

Scheme = Literal["int4", "int8"]

RECIPES = Path(__file__).parent / "recipes"
STARTER_NAMES = ("smollm2-135m-instruct", "all-minilm-l6-v2")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourcePart(_Part):
    """Where the checkpoint comes from; `sha256` pins a downloaded file, `path` names the model within it."""

    uri: str
    revision: str | None = None
    sha256: Sha256 | None = None
    path: str | None = None


class WeightsPart(_Part):
    """How matrices are stored. `int8` holds patterns (fnmatch) of the names that an int4 decoder keeps in int8."""

    scheme: Scheme = "int8"
    int8: tuple[str, ...] = ("*/qkv_proj",)
    smoothing: Annotated[float, Field(ge=0, le=1)] = 0.8


class CalibrationPart(_Part):
    """How much text the weights are fitted to: windows of tokens from prose, code and the model's own chat."""

    num_windows: Annotated[int, Field(ge=1, le=512)] = 48
    window_tokens: Annotated[int, Field(ge=16, le=4096)] = 256
    seed: int = 0


class GatesPart(_Part):
    """What the evaluation must reach; an absent gate lets everything pass."""

    max_kl: Annotated[float, Field(gt=0)] | None = None
    min_top1: Annotated[float, Field(gt=0, le=1)] | None = None
    min_cosine_mean: Annotated[float, Field(gt=0, le=1)] | None = None
    min_cosine: Annotated[float, Field(gt=0, le=1)] | None = None


class Recipe(_Part):
    """One TOML file of `recipes/`, or what the command line says instead."""

    name: BundleName
    license: str | None = None
    context_length: Annotated[int, Field(ge=16, le=1 << 20)] = 8192
    source: SourcePart
    weights: WeightsPart = WeightsPart()
    calibration: CalibrationPart = CalibrationPart()
    sampling: SamplingDefaults = SamplingDefaults()
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
