"""Counted runs of Lantern's decoder and of llama.cpp on emulated processors."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance.engine.kernels import LIBRARY
from images.workplace import ROOT, run
from tests.arm.boards import with_board
from tests.arm.decoder import FORMS
from tests.arm.tree import Tree, counting_emulator, lacking, llama_tree, working_tree

_COMPILER = "aarch64-linux-gnu-g++"
_COUNTED = re.compile(r"(\d+) instructions, (\d+) loaded, (\d+) stored, (\d+) lines, mark (\d+)")


@dataclass(frozen=True, slots=True)
class Count:
    """The counts between two marks: instructions, bytes of loads and stores, lines of 64 bytes that loads touched."""

    instructions: int
    loaded: int
    stored: int
    lines: int


def missing_tool() -> str | None:
    """Return the reason why nothing can be counted here; None if it can."""
    return lacking("make", "gcc", _COMPILER)


@dataclass(frozen=True, slots=True)
class Workplace:
    """The trees, programs and models of counted runs."""

    scratch: Path
    appliance: Tree
    other: Tree

    @classmethod
    def make(cls, scratch: Path) -> Workplace:
        """Unpack the trees, which are kept in the cache, and build plugin, kernels and program in `scratch`."""
        for target in ("kernels", f"{scratch}/count.so"):
            run(
                "make", "-s", "-f", "kernels.mk", target, f"KERNEL_BUILD={scratch}", f"KERNEL_CXX={_COMPILER}", cwd=ROOT
            )
        made = cls(scratch, working_tree(), llama_tree())
        include, libraries = (made.other.root / "usr" / name for name in ("include", "lib/aarch64-linux-gnu"))
        link = ("-L", libraries, "-lllama", "-lggml", "-lggml-base", "-Wl,--allow-shlib-undefined")
        source = ROOT / "tests/arm/llama_count.cpp"
        run(_COMPILER, "-O2", "-isystem", include, source, "-o", scratch / "llama_count", *link)
        return made

    @property
    def library(self) -> Path:
        """Return Lantern's kernels for Arm."""
        return self.scratch / LIBRARY.name

    def forms(self, processor: str, bundle: Path) -> dict[str, Path]:
        """Make both forms of a bundle's decoder for a processor."""
        folder = self.scratch / f"forms-{processor}"
        shutil.rmtree(folder, ignore_errors=True)
        board = self._board(self.appliance, processor)
        _run(board.python(processor, "-m", "tests.arm.decoder", "make", bundle, folder, self.library))
        return {name: folder / name for name in FORMS}

    def decoder(self, processor: str, form: Path) -> Callable[[int, int], Count]:
        """Return the function that counts a step of a form, of some tokens after others."""

        def counted(past: int, new: int) -> Count:
            arguments = ("-m", "tests.arm.decoder", "count", form, self.library, str(past), str(new))
            board = self._board(self.appliance, processor)
            return self._counted(board.python(processor, *arguments, plugin=self._plugin(new)))

        return counted

    def llama(self, processor: str, model: Path) -> Callable[[int, int], Count]:
        """Return the function that counts a step of llama.cpp."""
        program = self.scratch / "llama_count"

        def counted(past: int, new: int) -> Count:
            board = self._board(self.other, processor)
            return self._counted(
                board.command(processor, program, model, str(past), str(new), plugin=self._plugin(new))
            )

        return counted

    def quantized(self, gguf: Path, name: str) -> Path:
        """Return a GGUF file in another quantization, made by llama.cpp itself."""
        target = self.scratch / f"{name}.gguf"
        program = self.other.root / "usr/bin/llama-quantize"
        _run(self.other.command("max", program, "--allow-requantize", gguf, target, name, "2"))
        return target

    def versions(self) -> str:
        """Return the versions of what is compared."""
        python = "import numpy, onnxruntime; print(f'onnxruntime {onnxruntime.__version__}')"
        llama = (self.other.root / "usr/share/doc/libllama0/nightly-tag.txt").read_text("utf-8").strip()
        compiler = run(_COMPILER, "-dumpfullversion").strip()
        emulator = run(*counting_emulator(), "--version").split("(")[0].strip()
        return (
            f"{_run(self.appliance.python('max', '-c', python)).strip()}, llama.cpp {llama}, gcc {compiler}, {emulator}"
        )

    def _board(self, tree: Tree, processor: str) -> Tree:
        """Return a tree with the files of a board, which programs under the counting emulator need."""
        folder = self.scratch / f"board-{tree.root.name}-{processor}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return with_board(tree, processor, folder)

    def _plugin(self, num_new: int) -> str:
        """Return the plugin with its options: it counts the memory of single tokens, which wait for memory."""
        return f"{self.scratch}/count.so,memory={'on' if num_new == 1 else 'off'},out={self.scratch}/counts"

    def _counted(self, command: list[str]) -> Count:
        _run(command)
        found = _COUNTED.findall((self.scratch / "counts").read_text("ascii"))
        *counts, _ = map(int, found[-1])
        return Count(*counts)


def _run(command: list[str]) -> str:
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\nfailed with exit code {ended.returncode}: {ended.stderr[-2000:]}")
    return ended.stdout
