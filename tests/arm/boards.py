"""The files of a board that libraries read, since the emulator that counts shows those of the machine that it runs on.

onnxruntime looks at the processors there while it is imported, and crashes at those of another architecture.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.arm.tree import Tree

_NUM_CORES = 4
_PLAIN = "fp asimd evtstrm crc32 cpuid"
_DOTPROD = f"{_PLAIN} aes pmull sha1 sha2 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
_I8MM = f"{_DOTPROD} i8mm bf16"
# The part number and the features that Linux shows.
_PARTS = {
    "cortex-a53": ("0xd03", _PLAIN),
    "cortex-a72": ("0xd08", _PLAIN),
    "cortex-a76": ("0xd0b", _DOTPROD),
    "max": ("0xd47", _I8MM),
}


def with_board(tree: Tree, processor: str, folder: Path) -> Tree:
    """Return the same tree in an empty folder, with the files of a board that has the processor.

    Raises:
        SystemExit: the processor is none of those that are known here.
    """
    name = processor.split(",")[0]
    if name not in _PARTS:
        raise SystemExit(f"The processor {name} is not known; choose from {', '.join(_PARTS)}")
    part, features = _PARTS[name]
    for link in ("usr", "lib"):
        (folder / link).symlink_to(tree.root / link)
    cores = "".join(
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
        for number in range(_NUM_CORES)
    )
    _write(folder / "proc/cpuinfo", cores)
    for listing in ("possible", "present"):
        _write(folder / "sys/devices/system/cpu" / listing, f"0-{_NUM_CORES - 1}\n")
    return replace(tree, root=folder)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "ascii")
