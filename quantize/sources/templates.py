"""The chat template of a checkpoint, wherever it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from appliance.bundle.manifest import CHAT_TEMPLATE_NAME
from appliance.errors import QuantizeError
from quantize.sources.fields import read_json, shown
from quantize.sources.folder import inside

_DEFAULT = "default"
# In the order in which transformers prefers them.
_FILES = ("chat_template.json", "tokenizer_config.json")


def read_chat_template(folder: Path) -> str | None:
    """Return the chat template, from its own file or from tokenizer_config.json; None if there is none.

    Raises:
        QuantizeError: there are several and none of them is the default, or it is no text.
    """
    path = inside(folder, CHAT_TEMPLATE_NAME)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in _FILES:
        path = inside(folder, name)
        value = read_json(path).get("chat_template") if path.is_file() else None
        if value is not None:
            return chosen_template(value, name)
    others = sorted(found.name for found in folder.glob("*.jinja")) + _additional(folder)
    if others:
        raise QuantizeError(
            f"the folder has {', '.join(others)} but no {CHAT_TEMPLATE_NAME}; give the one to use this name"
        )
    return None


def _additional(folder: Path) -> list[str]:
    more = inside(folder, "additional_chat_templates")
    return sorted(f"{more.name}/{found.name}" for found in more.glob("*.jinja"))


def chosen_template(value: object, where: str) -> str:
    """Return the template out of a text, or of a list or object of named ones.

    Raises:
        QuantizeError: several and none of them is the default, or no text.
    """
    if isinstance(value, str):
        return value
    named: Mapping[object, object] = {}
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        named = {entry.get("name"): entry.get("template") for entry in value}
    elif isinstance(value, dict):
        named = value
    chosen = next(iter(named.values())) if len(named) == 1 else named.get(_DEFAULT)
    if isinstance(chosen, str):
        return chosen
    if len(named) > 1:
        names = ", ".join(sorted(map(str, named)))
        raise QuantizeError(
            f"{where} has the chat templates {names}, none of them named 'default'; "
            f"write the one to use into {CHAT_TEMPLATE_NAME}"
        )
    raise QuantizeError(f"chat_template in {where} is {shown(value)}; a text is needed")
