"""The overview of a device's models, as the API answers it and as commands print it: installed, loaded, free."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, NotRequired

import psutil
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from appliance.bundle.manifest import REPORT_NAME, Witness
from appliance.bundle.targets import is_built_for, kl_here
from appliance.host.memory import available_bytes
from appliance.host.processor import processor_kind
from appliance.install.installer import InstalledModel

_STRICT = ConfigDict(strict=True, extra="forbid")


@with_config(_STRICT)
class WitnessInfo(TypedDict):
    """The evidence that the float model is the published one; see `Witness` of the manifest."""

    by: str
    read: str | None
    reason: str | None
    difference: float | None
    figures: dict[str, float]
    overruled: bool


@with_config(_STRICT)
class Quality(TypedDict):
    """Measurements of a bundle against its float model, from its manifest; bundles of 0.1.0 have no witness.

    `kl_here` is the largest mean KL that the arithmetic of this processor gives a decoder.
    """

    metrics: dict[str, float]
    kl_here: NotRequired[float]
    text: str | None
    gates_overruled: bool
    witness: WitnessInfo | None


@with_config(_STRICT)
class ModelInfo(TypedDict):
    """An installed model; of a damaged one, only its name, its versions and the problem are known.

    `memory_bytes` is the memory that it has reserved, 0 if it is not loaded. `has_report` tells if the bundle holds a
    report of its measurements. `built_for` names the boards that the bundle was built for, or "any", and
    `is_built_for_here` tells if this one has such a processor.
    """

    name: str
    digest: str | None
    versions: list[str]
    kind: NotRequired[Literal["decoder", "encoder", "reranker"]]
    version: NotRequired[str]
    size_bytes: NotRequired[int]
    license: NotRequired[str]
    source: NotRequired[str]
    signer: NotRequired[str]
    quality: NotRequired[Quality]
    built_for: NotRequired[str]
    is_built_for_here: NotRequired[bool]
    has_report: NotRequired[bool]
    loaded: bool
    memory_bytes: int
    aliases: list[str]
    problem: str | None


@with_config(_STRICT)
class Storage(TypedDict):
    """The disk that holds the models."""

    free_bytes: int | None
    total_bytes: int | None


@with_config(_STRICT)
class Memory(TypedDict):
    """The machine's memory: all of it, the part that is free, and the part that loaded models have reserved."""

    free_bytes: int
    total_bytes: int
    models_bytes: int


@with_config(_STRICT)
class Overview(TypedDict):
    """Installed models, and free space."""

    models: list[ModelInfo]
    storage: Storage
    memory: Memory


@with_config(_STRICT)
class Installation(Overview):
    """The models after an install, and the name of the new one; null if exactly this bundle served already."""

    installed: str | None


def overview_of(
    installed: Iterable[InstalledModel],
    root: Path,
    *,
    aliases: Mapping[str, str],
    loaded: Collection[str] = (),
    problems: Mapping[str, str] | None = None,
    reserved: Mapping[str, int] | None = None,
    models_bytes: int = 0,
) -> Overview:
    """Describe the models of the store at `root`; blocks.

    Args:
        installed: the models of the store.
        root: the store's folder.
        aliases: alias to model.
        loaded: digests of the bundles that are in memory.
        problems: model to the reason why it could not be loaded.
        reserved: model to the memory that it has reserved.
        models_bytes: memory that loaded models have reserved.
    """
    disk = shutil.disk_usage(root) if root.is_dir() else None
    return {
        "models": [
            _info(
                model,
                is_loaded=model.digest in loaded,
                memory_bytes=(reserved or {}).get(model.name, 0),
                aliases=sorted(alias for alias, name in aliases.items() if name == model.name),
                problem=model.problem or (problems or {}).get(model.name),
            )
            for model in installed
        ],
        "storage": {"free_bytes": disk.free if disk else None, "total_bytes": disk.total if disk else None},
        "memory": {
            "free_bytes": available_bytes(),
            "total_bytes": psutil.virtual_memory().total,
            "models_bytes": models_bytes,
        },
    }


def _info(
    model: InstalledModel, *, is_loaded: bool, memory_bytes: int, aliases: list[str], problem: str | None
) -> ModelInfo:
    info: ModelInfo = {
        "name": model.name,
        "digest": model.digest,
        "versions": list(model.versions),
        "loaded": is_loaded,
        "memory_bytes": memory_bytes,
        "aliases": aliases,
        "problem": problem,
    }
    if model.bundle is None:
        return info
    manifest, kind = model.bundle.manifest, processor_kind()
    quality: Quality = {
        "metrics": manifest.evaluation.metrics,
        "text": manifest.evaluation.text,
        "gates_overruled": manifest.evaluation.gates_overruled,
        "witness": _witness(manifest.evaluation.witness),
    }
    found = kl_here(manifest.evaluation.metrics, kind)
    if found is not None:
        quality["kl_here"] = found
    return {
        **info,
        "kind": manifest.model.kind,
        "version": manifest.version,
        "size_bytes": manifest.size_bytes,
        "license": manifest.license,
        "source": manifest.source.uri,
        "signer": model.bundle.signer,
        "quality": quality,
        "built_for": manifest.built_for,
        "is_built_for_here": is_built_for(manifest.built_for, kind),
        "has_report": model.bundle.has(REPORT_NAME),
    }


def _witness(found: Witness | None) -> WitnessInfo | None:
    if found is None:
        return None
    return {
        "by": found.by,
        "read": found.read,
        "reason": found.reason,
        "difference": found.difference,
        "figures": found.figures,
        "overruled": found.overruled,
    }
