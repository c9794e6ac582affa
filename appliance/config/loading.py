"""The reading of settings: one TOML file, then the environment, then flags; and the file of all defaults.

An environment variable `LANTERN_SECTION_KEY` holds a TOML value or a bare string.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from appliance.config.sections import Config
from appliance.errors import ConfigError

_ENV_PREFIX = "LANTERN_"


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
        said = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise ConfigError(f"{f'Section {key}: ' if key else ''}{said}.") from err
        shown = "" if {"keys", "claim_code"} & set(first["loc"]) else f" is {first['input']!r}"
        raise ConfigError(f"The setting {key}{shown}: {said.lower()}.") from err


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
    """Read `LANTERN_SERVER_PORT=9000` and the like; unknown keys are skipped, for others may share the prefix."""
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


def default_toml() -> str:
    """Write every setting with its default and its purpose."""
    lines = ["# Lantern's settings. Every line shows a default; leave out what you do not change.", ""]
    for name, section in Config.model_fields.items():
        default = section.get_default()
        kind = type(default)
        lines += [f"# {line}" for line in (kind.__doc__ or "").strip().splitlines() if line]
        lines.append(f"[{name}]")
        for key, field in kind.model_fields.items():
            lines += [f"# {field.description}", f"{key} = {_toml(getattr(default, key))}"]
        lines.append("")
    return "\n".join(lines)


def _toml(value: object) -> str:
    """Write a value; strings, numbers, booleans, lists and empty tables are alike in JSON and TOML."""
    return json.dumps(value, ensure_ascii=False)
