"""A checkpoint's folder: which of its files hold the weights. Nothing outside the folder is followed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import QuantizeError
from quantize.sources.fields import read_json, shown
from quantize.sources.tensors import Tensor, read_header

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
_OTHER_FORM = re.compile(r"consolidated(\.\d+|-\d{5}-of-\d{5})?\.safetensors")  # Mistral's own form of the same weights
_SNAPSHOTS = "snapshots"


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file or folder within the checkpoint, there or not.

    Raises:
        QuantizeError: it lies elsewhere, by its name or by a link.
    """
    path = folder / name
    root = folder.resolve()
    roots = [root]
    if root.parent.name == _SNAPSHOTS and root.parent.parent.name.startswith("models--"):
        roots.append(root.parent.parent / "blobs")  # of a hub's cache, whose snapshots are links
    if Path(name).is_absolute() or ".." in Path(name).parts or not any(path.resolve().is_relative_to(r) for r in roots):
        raise QuantizeError(
            f"{name} lies outside the checkpoint's folder, where nothing is read; copy the file into it"
        )
    return path


def check_links(folder: Path) -> None:
    """Refuse a folder with links to other places.

    Raises:
        QuantizeError: naming the link.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() and not name.startswith(".") and "/." not in name:
            inside(folder, name)


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The tensors of all files that hold the weights, and the files that were left out with the reason."""

    tensors: Mapping[str, Tensor]
    left_out: Mapping[str, str]


def read_weight_files(folder: Path) -> WeightFiles:
    """Read the headers of all files that hold the weights.

    Raises:
        QuantizeError: a file is missing, damaged, outside the folder, or of unknown purpose.
    """
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    _refuse_adapter(folder, files)
    left_out = {name: "the same weights in their publisher's own form" for name in files if _OTHER_FORM.fullmatch(name)}
    named = _named_files(folder, [name for name in files if name not in left_out])
    tensors: dict[str, Tensor] = {}
    for name in named:
        for tensor in read_header(inside(folder, name)).values():
            if tensor.name in tensors:
                other = tensors[tensor.name].path.name
                raise QuantizeError(f"{tensor.name} is in {other} and in {name}; keep one of them")
            tensors[tensor.name] = tensor
    _check_index(folder, tensors)
    return WeightFiles(tensors, left_out)


def _refuse_adapter(folder: Path, files: Iterable[str]) -> None:
    left = [name for name in ("adapter_config.json", "adapter_model.safetensors") if (folder / name).exists()]
    left += [name for name in files if name.startswith("adapter") and name not in left]
    if left:
        raise QuantizeError(
            f"the folder holds an adapter ({left[0]}): merge it into the weights and save them, or move it elsewhere"
        )


def _named_files(folder: Path, files: list[str]) -> list[str]:
    """Return the files to read: all that the index names, or the single one, or a whole set of shards."""
    if (folder / _INDEX).exists():
        named = sorted({_file_name(folder, tensor, name) for tensor, name in _weight_map(folder).items()})
        missing = [name for name in named if not inside(folder, name).is_file()]
        if missing:
            raise QuantizeError(f"{missing[0]} is missing, which {_INDEX} names; copy the checkpoint again")
        why = f"which {_INDEX} does not name"
    elif not files:
        raise QuantizeError("the checkpoint holds no safetensors file; convert its weights first")
    elif _SINGLE in files or len(files) == 1:
        named, why = [_SINGLE if _SINGLE in files else files[0]], f"which is not part of {_SINGLE}"
    else:
        named, why = files, ""
    others = [name for name in files if name not in named]
    if others:
        raise QuantizeError(f"the folder holds {others[0]}, {why}; move it elsewhere if the model is whole without it")
    _check_shards(named)
    return named


def _weight_map(folder: Path) -> Mapping[str, object]:
    found = read_json(inside(folder, _INDEX)).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise QuantizeError(f"weight_map in {_INDEX} is {shown(found)}; copy the checkpoint again")
    return found


def _file_name(folder: Path, tensor: str, name: object) -> str:
    if not isinstance(name, str) or Path(name).name != name:
        raise QuantizeError(
            f"{_INDEX} says that {tensor} is in {shown(name)}; only files of the folder itself are read"
        )
    if not name.endswith(".safetensors"):
        raise QuantizeError(f"{_INDEX} says that {tensor} is in {shown(name)}, which is no safetensors file")
    inside(folder, name)
    return name


def _check_shards(names: Iterable[str]) -> None:
    """Refuse a set of numbered files that is not whole."""
    matches = [match for name in names if (match := _SHARD.fullmatch(name))]
    for match in matches:
        present = {
            int(other["number"])
            for other in matches
            if (other["stem"], other["count"]) == (match["stem"], match["count"])
        }
        missing = sorted(set(range(1, int(match["count"]) + 1)) - present)
        if missing:
            name = f"{match['stem']}-{missing[0]:05d}-of-{match['count']}.safetensors"
            raise QuantizeError(f"{name} is missing; copy the checkpoint again")


def _check_index(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse an index that names a tensor which its file does not hold."""
    if not (folder / _INDEX).exists():
        return
    for name, file in _weight_map(folder).items():
        if name not in tensors or tensors[name].path.name != file:
            raise QuantizeError(
                f"{_INDEX} says that {name} is in {file}, which does not hold it; copy the checkpoint again"
            )
