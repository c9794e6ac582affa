"""The settings as a commented TOML file, made from the definitions in config.py, so that the two cannot differ."""

from __future__ import annotations

import json

from appliance.config import Config


def default_toml() -> str:
    """Every setting with its default and what it is for."""
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
    """Strings, numbers, booleans, lists and empty tables are written alike in JSON and TOML."""
    return json.dumps(value, ensure_ascii=False)
