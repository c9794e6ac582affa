"""The modules of a sentence-transformers folder: what they are, and where their files lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from appliance.errors import QuantizeError
from quantize.sources.fields import read_json_value, shown
from quantize.sources.folder import inside

MODULES_NAME = "modules.json"
_POOLING, _LOGIT_SCORE = "Pooling", "LogitScore"


@dataclass(frozen=True, slots=True)
class Module:
    """One module: the last part of its class, and its folder within the checkpoint, empty for the checkpoint itself."""

    kind: str
    place: str


def read_modules(folder: Path) -> tuple[Module, ...]:
    """Parse modules.json.

    Raises:
        QuantizeError: absent or damaged, or the model lies in a folder of its own.
    """
    path = inside(folder, MODULES_NAME)
    if not path.is_file():
        raise QuantizeError("the checkpoint has no modules.json; only sentence-transformers folders are known")
    try:
        modules = tuple(
            Module(str(entry["type"]).rsplit(".", 1)[-1], str(entry.get("path", ""))) for entry in read_json_value(path)
        )
    except (KeyError, TypeError, AttributeError) as err:
        raise QuantizeError("modules.json is damaged; copy the checkpoint again") from err
    if modules and modules[0].place not in ("", "."):
        raise QuantizeError(
            f"modules.json has the model in {shown(modules[0].place)}; give that folder's files beside modules.json"
        )
    return modules


def pools_hidden_states(folder: Path) -> bool:
    """Return True if the folder says how hidden states become a vector, so that its model writes no text."""
    return _has(folder, _POOLING)


def scores_by_logits(folder: Path) -> bool:
    """Return True if the folder makes a score of the logits of one or two tokens."""
    return _has(folder, _LOGIT_SCORE)


def _has(folder: Path, kind: str) -> bool:
    return inside(folder, MODULES_NAME).is_file() and any(module.kind == kind for module in read_modules(folder))
