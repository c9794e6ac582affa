"""What became of the last update: kept on the data partition, and shown below /run to the appliance."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

from appliance.files import write_whole

KEPT = Path("/data/system/update.json")
SHOWN = Path("/run/lantern/update.json")
INTERRUPTED = "the installation was interrupted; send it again"


class Step(StrEnum):
    """Where an update is."""

    NONE = "none"
    INSTALLING = "installing"
    RESTARTING = "restarting"
    DONE = "done"
    REFUSED = "refused"
    FELL_BACK = "fell_back"


@dataclass(frozen=True, slots=True)
class UpdateState:
    """The running version, the last update that was tried, and the one that did not get healthy here."""

    step: Step = Step.NONE
    running: str = ""
    version: str = ""
    detail: str = ""
    failed: str = ""


def load(path: Path = KEPT) -> UpdateState:
    """The kept state; a damaged file counts as none."""
    try:
        raw = json.loads(path.read_bytes()[:65536])
        return UpdateState(**{**raw, "step": Step(raw["step"])})
    except (OSError, ValueError, TypeError, KeyError):
        return UpdateState()


def keep(state: UpdateState, path: Path = KEPT, shown: Path = SHOWN) -> None:
    """Write it where it lasts, and where everybody may read it."""
    data = json.dumps(asdict(state)).encode()
    write_whole(path, data)
    shown.parent.mkdir(parents=True, exist_ok=True)
    write_whole(shown, data)
    shown.chmod(0o644)


def after_start(state: UpdateState, running: str) -> UpdateState:
    """What the last update's state is, once a system of this version was healthy."""
    state = replace(state, running=running)
    if state.step in {Step.INSTALLING, Step.RESTARTING}:
        if state.version == running:
            return replace(state, step=Step.DONE, detail="", failed="")
        if state.step is Step.RESTARTING:
            detail = f"{state.version} did not become healthy, so {running} runs again"
            return replace(state, step=Step.FELL_BACK, failed=state.version, detail=detail)
        return replace(state, step=Step.REFUSED, detail=INTERRUPTED)
    return state
