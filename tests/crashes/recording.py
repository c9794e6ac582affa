"""The system calls by which a program changes a folder, recorded by strace and read into operations.

Only what changes names or bytes below the folder is kept, in order. A program tells its own steps by trying to open
`/lantern-step/NAME`, which never exists.
"""

from __future__ import annotations

import codecs
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "/lantern-step/"
_TRACED = (
    "openat,creat,write,pwrite64,writev,pwritev,sendfile,copy_file_range,lseek,ftruncate,truncate,rename,renameat,renameat2,"
    "link,linkat,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,mmap,fallocate"
)
_LINE = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)(?:<((?:[^>\\]|\\.)*)>)?")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DESCRIPTOR = re.compile(r"^(AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>")
_DELETED = " (deleted)"
# SQLite writes this index of its log of changes by a mapping; the first process that opens the log empties it and makes
# it anew (https://sqlite.org/walformat.html section 2.2), so that its content after a cut does not matter.
_LOG_INDEX = "-shm"


@dataclass(frozen=True, slots=True)
class Make:
    """A new empty file, a folder, or a link to `target`."""

    path: str
    kind: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Rename:
    """A name that moves, replacing another."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Link:
    """A second name of a file."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Remove:
    """A name that goes."""

    path: str


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes of a file at an offset."""

    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """The new size of a file."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A file's bytes, or a folder's names, that are on the disk from now on."""

    path: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A step of the program that is done."""

    name: str


Operation = Make | Rename | Link | Remove | Write | Truncate | Sync | Mark


def record(command: Sequence[str], root: Path, log: Path) -> list[Operation]:
    """Run a program and return what it did below a folder that is empty at first.

    Raises:
        subprocess.CalledProcessError: it failed.
        ValueError: it changed the folder by a call that is not understood here.
    """
    traced = ["strace", "-f", "-y", "-xx", "-s", str(1 << 24), "-e", f"trace={_TRACED}", "-o", str(log), *command]
    subprocess.run(traced, check=True)
    return list(_Reader(str(root)).read(_whole_lines(log)))


def _whole_lines(log: Path) -> Iterator[str]:
    """Join the calls during which another thread was traced."""
    open_calls: dict[str, str] = {}
    for line in log.read_text("latin-1").splitlines():
        pid = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            open_calls[pid] = line.removesuffix("<unfinished ...>")
        elif " resumed>" in line:
            yield open_calls.pop(pid) + line.split(" resumed>", 1)[1]
        else:
            yield line


def _text(escaped: str) -> str:
    return _bytes(escaped).decode("utf-8", "surrogateescape")


def _bytes(escaped: str) -> bytes:
    return codecs.escape_decode(escaped.encode("latin-1"))[0]


class _Reader:
    """Knows where each descriptor stands, and which files exist."""

    def __init__(self, root: str) -> None:
        self._root = root + "/"
        self._positions: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._appending: set[str] = set()
        self._content: dict[str, bytearray] = {}

    def read(self, lines: Iterator[str]) -> Iterator[Operation]:
        for line in lines:
            found = _LINE.match(line)
            if found is None:
                continue
            name, arguments, result, opened = found.groups()
            if name == "openat" and f'"{_escaped(MARK)}' in arguments:
                yield Mark(self._paths(arguments)[-1].removeprefix(MARK))
            elif int(result) >= 0:
                yield from self._call(name, arguments, int(result), opened)

    def _call(self, name: str, arguments: str, result: int, opened: str | None) -> Iterator[Operation]:
        match name:
            case "openat":
                yield from self._opened(arguments, result, _text(opened or ""))
            case "write" | "pwrite64" | "sendfile" | "copy_file_range" | "lseek" | "ftruncate":
                yield from self._on_descriptor(name, arguments, result)
            case "fsync" | "fdatasync":
                path = self._descriptor(arguments)[1]
                if self._is_ours(path) or path + "/" == self._root:
                    yield Sync(self._relative(path))
            case "mmap":
                is_written = "PROT_WRITE" in arguments and "MAP_SHARED" in arguments
                if is_written and self._root in _text(arguments) and f"{_LOG_INDEX}>" not in _text(arguments):
                    raise ValueError(f"a file is written by a mapping: {_text(arguments)}")
            case "writev" | "pwritev" | "fallocate" | "truncate" | "creat":
                if self._root in _text(arguments):
                    raise ValueError(f"{name} is not read here: {_text(arguments)[:200]}")
            case _:
                yield from self._names(name, arguments)

    def _names(self, name: str, arguments: str) -> Iterator[Operation]:
        paths = self._paths(arguments)
        if not paths[-1].startswith("/"):
            raise ValueError(f"{name} of a relative path, which is not read here: {paths}")
        if not self._is_ours(paths[-1]):
            return
        ours = [self._relative(path) for path in paths]
        match name:
            case "rename" | "renameat" | "renameat2":
                self._move(paths[0], paths[1])
                yield Rename(*ours)
            case "link" | "linkat":
                self._content[paths[1]] = self._content[paths[0]]
                yield Link(*ours)
            case "symlink" | "symlinkat":
                yield Make(ours[-1], "link", _text(_STRING.findall(arguments)[0]))
            case "mkdir" | "mkdirat":
                yield Make(ours[-1], "folder")
            case "unlink" | "unlinkat" | "rmdir":
                self._content.pop(paths[-1], None)
                yield Remove(ours[-1])
            case _:
                raise ValueError(f"{name} is not read here")

    def _opened(self, arguments: str, descriptor: int, path: str) -> Iterator[Operation]:
        key = str(descriptor)
        self._positions[key] = 0
        self._appending.discard(key)
        if not self._is_ours(path) or "O_DIRECTORY" in arguments:
            return
        if "O_APPEND" in arguments:
            self._appending.add(key)
        if "O_CREAT" in arguments and path not in self._content:
            self._content[path] = bytearray()
            yield Make(self._relative(path), "file")
        elif "O_TRUNC" in arguments and self._content[path]:
            self._content[path].clear()
            yield Truncate(self._relative(path), 0)

    def _on_descriptor(self, name: str, arguments: str, result: int) -> Iterator[Operation]:
        key, path = self._descriptor(arguments)
        if name == "copy_file_range":
            raise ValueError("copy_file_range is not read here")
        if not self._is_ours(path):
            return
        if name == "lseek":
            self._positions[key] = result
            return
        content = self._content[path]
        if name == "ftruncate":
            size = int(arguments.rsplit(", ", 1)[1])
            del content[size:]
            content.extend(bytes(size - len(content)))
            yield Truncate(self._relative(path), size)
            return
        data = self._sent(arguments, result) if name == "sendfile" else _bytes(_STRING.findall(arguments)[-1])[:result]
        if not data:
            return
        offset = len(content) if key in self._appending else self._positions[key]
        if name == "pwrite64":
            offset = int(arguments.rsplit(", ", 1)[1])
        else:
            self._positions[key] = offset + len(data)
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
        yield Write(self._relative(path), offset, data)

    def _sent(self, arguments: str, num_bytes: int) -> bytes:
        """Return what sendfile took from a file that has not changed since, or from one of ours."""
        source = _DESCRIPTOR.match(arguments.split(", ", 1)[1])
        start = re.search(r"\[(\d+)\]", arguments)
        assert source is not None
        assert start is not None, "sendfile by the descriptor's own position is not read here"
        path, offset = _text(source.group(2)), int(start.group(1))
        content = bytes(self._content[path]) if path in self._content else Path(path).read_bytes()
        return content[offset : offset + num_bytes]

    def _move(self, source: str, target: str) -> None:
        """Take a file's or a folder's content along."""
        for path in [p for p in self._content if p == source or p.startswith(source + "/")]:
            self._content[target + path[len(source) :]] = self._content.pop(path)

    def _paths(self, arguments: str) -> list[str]:
        """Return the absolute paths of a call, each relative to the descriptor before it."""
        found, base = [], ""
        for part in re.finditer(r'(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>|"((?:[^"\\]|\\.)*)"', arguments):
            if part.group(2) is None:
                base = _text(part.group(1))
            else:
                name = _text(part.group(2))
                found.append(f"{base}/{name}" if base and not name.startswith("/") else name)
        return found

    def _descriptor(self, arguments: str) -> tuple[str, str]:
        found = _DESCRIPTOR.match(arguments)
        return ("", "") if found is None else (found.group(1), _text(found.group(2)))

    def _is_ours(self, path: str) -> bool:
        return path.startswith(self._root) and not path.endswith((_DELETED, _LOG_INDEX))

    def _relative(self, path: str) -> str:
        return path.removeprefix(self._root) if path + "/" != self._root else ""


def _escaped(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())
