"""The settings of the appliance: one TOML file, then the environment, then flags; validated once, frozen afterwards.

An environment variable `LANTERN_SECTION_KEY` holds a TOML value or a bare string. Knows nothing of what uses it.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.errors import ConfigError

_ENV_PREFIX = "LANTERN_"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class ServerConfig(_Section):
    """Where and for whom the server listens."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    keys: list[Annotated[str, Field(min_length=8, pattern=r"^[\x21-\x7e]+$")]] = []
    allow_open: bool = False
    host_names: list[Annotated[str, Field(min_length=1)]] = []
    max_body_mib: Annotated[int, Field(ge=1, le=256)] = 16
    drain_s: Annotated[float, Field(ge=0, le=600)] = 30.0


class EngineConfig(_Section):
    """How models run. `threads` 0: one for each core that this process may use."""

    slots: Annotated[int, Field(ge=1, le=64)] = 4
    context_length: Annotated[int, Field(ge=64, le=131072)] = 2048
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    spinning: bool = False
    queue: Annotated[int, Field(ge=0, le=1024)] = 32


class ModelsConfig(_Section):
    """Other names for installed models: `aliases = { "gpt-4o-mini" = "smollm2-135m-instruct" }`."""

    aliases: dict[str, str] = {}


class DiscoveryConfig(_Section):
    """Whether and how the device announces itself on the local network."""

    announce: bool = False
    name: Annotated[str, Field(max_length=56)] = ""


class LogConfig(_Section):
    """What goes to the log; never content, at any level."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Config(_Section):
    """All settings."""

    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    models: ModelsConfig = ModelsConfig()
    discovery: DiscoveryConfig = DiscoveryConfig()
    log: LogConfig = LogConfig()


def load_config(
    path: Path | None,
    *,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[tuple[str, str], Any] | None = None,
) -> Config:
    """Read and validate the settings; `flags` maps (section, key) to what the command line said.

    Raises:
        ConfigError: a file that cannot be read, or a setting that is not valid, with what is allowed.
    """
    raw = _read(path) if path is not None else {}
    for (section, key), value in {**_from_environment(environment), **(flags or {})}.items():
        raw.setdefault(section, {})[key] = value
    if "LANTERN_API_KEY" in environment:
        server = raw.setdefault("server", {})
        server["keys"] = [*server.get("keys", []), environment["LANTERN_API_KEY"]]
    try:
        return Config.model_validate(raw)
    except ValidationError as err:
        first = err.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"There is no setting {key}; remove it.") from err
        shown = "" if "keys" in first["loc"] else f" is {first['input']!r}"
        raise ConfigError(f"The setting {key}{shown}: {first['msg'].lower()}.") from err


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as err:
        raise ConfigError(f"{path} cannot be read: {err.strerror}.") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path} is not valid TOML: {err}.") from err
    for section, values in raw.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {section} stands outside a section such as [server].")
    return raw


def _from_environment(environment: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    """`LANTERN_SERVER_PORT=9000` and the like; only keys that exist, so that other variables may share the prefix."""
    found: dict[tuple[str, str], Any] = {}
    for section, field in Config.model_fields.items():
        section_type = field.annotation
        assert section_type is not None
        for key in section_type.model_fields:
            text = environment.get(f"{_ENV_PREFIX}{section.upper()}_{key.upper()}")
            if text is not None:
                found[section, key] = _toml_value(text)
    return found


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
