"""The state of the last update, and the files that hold it: one kept on the data partition, one shown below /run.

After a fallback an older version reads the kept file, and 0.1.0 takes a file with a step or a field that it does not
know for none: then it forgets which version failed. So the file keeps these steps and fields.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from pathlib import Path

from appliance.host.files import write_atomically

KEPT = Path("/data/system/update.json")
SHOWN = Path("/run/lantern/update.json")
RUNNING_VERSION = Path("/usr/lib/lantern/version")
INTERRUPTED = "the installation was interrupted; send it again"

_MAX_BYTES = 65536


class Step(StrEnum):
    """The progress of an update; `WAITING`, received but not begun, is told and never written to a file."""

    NONE = "none"
    WAITING = "waiting"
    INSTALLING = "installing"
    RESTARTING = "restarting"
    DONE = "done"
    REFUSED = "refused"
    FELL_BACK = "fell_back"


@dataclass(frozen=True, slots=True)
class UpdateState:
    """The running version, the last update that was tried, and the version that did not become healthy here."""

    step: Step = Step.NONE
    running: str = ""
    version: str = ""
    detail: str = ""
    failed: str = ""


_TEXTS = tuple(field.name for field in fields(UpdateState) if field.name != "step")


def load(path: Path = KEPT) -> UpdateState:
    """Read a state; a damaged file counts as none, and fields of a later version are ignored."""
    try:
        raw = json.loads(path.read_bytes()[:_MAX_BYTES])
        texts = {name: str(raw[name]) for name in _TEXTS if name in raw}
        return UpdateState(Step(raw["step"]), **texts)
    except (OSError, ValueError, TypeError, KeyError):
        return UpdateState()


def keep(state: UpdateState, path: Path = KEPT, shown: Path = SHOWN) -> None:
    """Write a state to the file that lasts, and to the one that every user may read."""
    data = json.dumps(asdict(state)).encode()
    write_atomically(path, data)
    shown.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(shown, data)
    shown.chmod(0o644)


def after_start(state: UpdateState, running: str) -> UpdateState:
    """Return the last update's state once a system of this version is healthy."""
    state = replace(state, running=running)
    if state.step in {Step.INSTALLING, Step.RESTARTING}:
        if state.version == running:
            return replace(state, step=Step.DONE, detail="", failed="")
        if state.step is Step.RESTARTING:
            detail = f"{state.version} did not become healthy, so {running} runs again"
            return replace(state, step=Step.FELL_BACK, failed=state.version, detail=detail)
        return replace(state, step=Step.REFUSED, detail=INTERRUPTED)
    return state
