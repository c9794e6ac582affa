"""A disk on which only what was synced is certain, and every state in which a power cut may leave it.

After POSIX's fsync: a file's bytes are certain once the file was synced, a name once its folder was. Bytes that were
not synced may be there, be absent, be torn, or be zeros of the right length. Names may be late: of each folder any
first part of its changes may be there; a rename over two folders is in both or in neither, as journals keep it.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crashes.recording import Link, Make, Mark, Operation, Remove, Rename, Sync, Truncate, Write

Tree = Mapping[str, "bytes | str | None"]
"""Path to a file's bytes, a link's target, or None for a folder."""

_NUM_DRAWN = 12  # combinations at one instant, beside the ones that differ in one place
# Of a file that is not synced for long, as a log of changes: the last changes are torn, as each was when it was the
# last, and of those before, so many ends are tried.
_NUM_TORN = 6
_NUM_ENDS = 16


@dataclass(slots=True)
class _File:
    certain: bytes = b""
    pending: list[Write | Truncate] = field(default_factory=list)

    def variants(self) -> list[bytes]:
        """Return the contents after a cut: those that are certain first, the complete ones last."""
        if not self.pending:
            return [self.certain]
        found, data = [self.certain], self.certain
        num_whole = len(self.pending) - _NUM_TORN
        ends = set(range(0, num_whole, max(1, num_whole // _NUM_ENDS)))
        for i, change in enumerate(self.pending):
            if i < num_whole and i not in ends:
                data = _changed(data, change)
                continue
            if isinstance(change, Write) and i >= num_whole:
                for size in sorted(
                    {1, len(change.data) // 2, len(change.data) - 1, *range(512, len(change.data), 512)}
                ):
                    found.append(_changed(data, Write(change.path, change.offset, change.data[:size])))
            data = _changed(data, change)
            found.append(data)
        lost = max(found, key=len)
        found.insert(1, self.certain + bytes(len(lost) - len(self.certain)))
        return [*dict.fromkeys(found[:-1]), found[-1]]

    def sync(self) -> None:
        for change in self.pending:
            self.certain = _changed(self.certain, change)
        self.pending.clear()


@dataclass(slots=True)
class _Link:
    target: str


@dataclass(slots=True)
class _Folder:
    now: dict[str, _Node] = field(default_factory=dict)
    certain: dict[str, _Node] = field(default_factory=dict)
    pending: list[tuple[int, str, _Node | None]] = field(default_factory=list)

    def change(self, number: int, name: str, node: _Node | None) -> None:
        self.pending.append((number, name, node))
        _apply(self.now, name, node)

    def after(self, num_changes: int) -> dict[str, _Node]:
        names = dict(self.certain)
        for _, name, node in self.pending[:num_changes]:
            _apply(names, name, node)
        return names

    def sync(self, num_changes: int) -> None:
        self.certain = self.after(num_changes)
        del self.pending[:num_changes]


_Node = _File | _Link | _Folder


class Disk:
    """The operations so far, as what is certain and what is on its way."""

    def __init__(self) -> None:
        self._root = _Folder()
        self._folders: list[_Folder] = [self._root]
        self._files: list[_File] = []
        self._number = 0

    def do(self, operation: Operation) -> None:
        """Let one operation happen."""
        self._number += 1
        match operation:
            case Make(path, kind, target):
                self._put(path, self._new(kind, target))
            case Rename(source, target):
                node = self._node(source)
                self._put(source, None)
                self._put(target, node)
            case Link(source, target):
                self._put(target, self._node(source))
            case Remove(path):
                self._put(path, None)
            case Write(path) | Truncate(path):
                file = self._node(path)
                assert isinstance(file, _File)
                file.pending.append(operation)
            case Sync(path):
                self._sync(self._node(path) if path else self._root)
            case Mark():
                return

    def states(self, draw: random.Random) -> Iterator[Tree]:
        """Return states after a cut now: the oldest, the newest, each that differs from them in one place, and some."""
        folders = [f for f in self._folders if f.pending]
        files = [f for f in self._files if f.pending]
        choices: list[Sequence[int]] = [range(len(f.pending) + 1) for f in folders]
        variants = [f.variants() for f in files]
        choices += [range(len(v)) for v in variants]
        for picked in _picked(choices, draw):
            names = dict(zip(map(id, folders), picked[: len(folders)], strict=True))
            if self._is_possible(names):
                chosen = zip(variants, picked[len(folders) :], strict=True)
                contents = dict(zip(map(id, files), (v[i] for v, i in chosen), strict=True))
                yield _tree(self._root, names, contents)

    def _is_possible(self, num_changes: Mapping[int, int]) -> bool:
        """Tell if each rename between folders is in both or in neither."""
        seen: dict[int, set[bool]] = {}
        for folder in self._folders:
            for i, (number, _, _) in enumerate(folder.pending):
                seen.setdefault(number, set()).add(i < num_changes.get(id(folder), 0))
        return all(len(there) == 1 for there in seen.values())

    def _sync(self, node: _Node) -> None:
        if isinstance(node, _File):
            node.sync()
        elif isinstance(node, _Folder):
            self._sync_names(node, len(node.pending))

    def _sync_names(self, folder: _Folder, num_changes: int) -> None:
        numbers = {number for number, _, _ in folder.pending[:num_changes]}
        folder.sync(num_changes)
        for other in self._folders:
            shared = [i for i, (number, _, _) in enumerate(other.pending) if number in numbers]
            if shared:
                self._sync_names(other, shared[-1] + 1)

    def _new(self, kind: str, target: str) -> _Node:
        if kind == "folder":
            folder = _Folder()
            self._folders.append(folder)
            return folder
        if kind == "link":
            return _Link(target)
        file = _File()
        self._files.append(file)
        return file

    def _put(self, path: str, node: _Node | None) -> None:
        folder, _, name = path.rpartition("/")
        parent = self._node(folder) if folder else self._root
        assert isinstance(parent, _Folder)
        parent.change(self._number, name, node)

    def _node(self, path: str) -> _Node:
        node: _Node = self._root
        for name in path.split("/"):
            assert isinstance(node, _Folder)
            node = node.now[name]
        return node


def digest(tree: Tree) -> bytes:
    """Return a value by which equal states are tried once."""
    whole = hashlib.sha256()
    for path, content in sorted(tree.items()):
        whole.update(repr((path, content)).encode())
    return whole.digest()


def write_tree(tree: Tree, root: Path) -> None:
    """Make a state real below a folder that does not exist yet."""
    root.mkdir()
    for path, content in sorted(tree.items()):
        target = root / path
        match content:
            case None:
                target.mkdir(mode=0o700)
            case str():
                target.symlink_to(content)
            case _:
                target.write_bytes(content)
                target.chmod(0o600)


def _tree(root: _Folder, names: Mapping[int, int], contents: Mapping[int, bytes]) -> Tree:
    found: dict[str, bytes | str | None] = {}

    def walk(folder: _Folder, prefix: str) -> None:
        for name, node in folder.after(names.get(id(folder), 0)).items():
            match node:
                case _Folder():
                    found[prefix + name] = None
                    walk(node, f"{prefix}{name}/")
                case _Link(target):
                    found[prefix + name] = target
                case _File():
                    found[prefix + name] = contents.get(id(node), node.certain)

    walk(root, "")
    return found


def _picked(choices: Sequence[Sequence[int]], draw: random.Random) -> Iterator[tuple[int, ...]]:
    first, last = tuple(c[0] for c in choices), tuple(c[-1] for c in choices)
    yield first
    yield last
    for base in (first, last):
        for i, choice in enumerate(choices):
            for value in choice:
                yield (*base[:i], value, *base[i + 1 :])
    for _ in itertools.repeat(None, _NUM_DRAWN if len(choices) > 1 else 0):
        yield tuple(draw.choice(c) for c in choices)


def _apply(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


def _changed(data: bytes, change: Write | Truncate) -> bytes:
    if isinstance(change, Truncate):
        return data[: change.size] + bytes(max(0, change.size - len(data)))
    padded = data + bytes(max(0, change.offset - len(data)))
    return padded[: change.offset] + change.data + padded[change.offset + len(change.data) :]
