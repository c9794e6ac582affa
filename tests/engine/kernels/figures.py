"""The measured tables of docs/kernels.md: python -m tests.engine.kernels.figures arm|here.

`arm` counts instructions of each Arm family under the emulator of tests/arm (needs make, g++, aarch64-linux-gnu-g++).
`here` times the operator beside MatMulNBits in alternation, on this machine with the library of `make kernels`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from appliance.engine.kernels import DOMAIN, OPERATOR, KernelLibrary, load_kernels
from tests.arm.tree import counting_emulator
from tests.engine.kernels.graphs import Format, product_model, stored_constants, weights_of

_ROOT = Path(__file__).parents[3]
_PROCESSORS = {"neon": "cortex-a72", "dotprod": "cortex-a76", "i8mm": "max"}
_FORMATS = [
    Format(4, 32),
    Format(4, 32, has_zeros=True),
    *(Format(bits, 32) for bits in (5, 6, 8)),
    Format(8, 64),
    Format(8, 128),
]
_ROWS = (1, 2, 4, 8, 64)
_COLUMNS, _SIZE = 1536, 576  # K, N: a multiple of each block


def main() -> None:
    """Print the table that the argument names."""
    if sys.argv[1:] == ["arm"]:
        _count()
    elif sys.argv[1:] == ["here"]:
        _time(load_kernels())
    else:
        raise SystemExit(__doc__)


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _heads(rows: tuple[int, ...]) -> str:
    return " | ".join(f"{m} rows" if m > 1 else "1 row" for m in rows)


def _count() -> None:
    _write(f"| format | family | {_heads(_ROWS)} | bytes a weight |")
    _write("|---|---|" + "---|" * (len(_ROWS) + 1))
    with tempfile.TemporaryDirectory() as folder:
        variables = [f"KERNEL_BUILD={folder}", "KERNEL_CXX=aarch64-linux-gnu-g++"]
        make = ["make", "-s", "-f", "kernels.mk", f"{folder}/measure", f"{folder}/count.so", *variables]
        subprocess.run(make, cwd=_ROOT, check=True)
        for form in _FORMATS:
            for family in _PROCESSORS:
                runs = [_counted(Path(folder), family, form, m) for m in _ROWS]
                counts = " | ".join(f"{count:.3f}" for count, _ in runs)
                _write(f"| {form} | {family} | {counts} | {runs[0][1]:.3f} |")


def _counted(folder: Path, family: str, form: Format, num_rows: int) -> tuple[float, float]:
    """Return the instructions a multiply-accumulate and the bytes a weight of one product."""
    board = ["-cpu", _PROCESSORS[family], "-plugin", str(folder / "count.so")]
    emulator = [*counting_emulator(), *board, str(folder / "measure")]
    product = [family, form.bits, form.block, int(form.has_zeros), _COLUMNS, _SIZE, num_rows]
    ended = subprocess.run([*emulator, *map(str, product)], capture_output=True, text=True, check=True)
    size = _COLUMNS * _SIZE
    return int(ended.stderr.split()[0]) / (size * num_rows), int(ended.stdout.split()[2]) / size


def _time(library: KernelLibrary) -> None:
    _write(f"Family {library.family}, onnxruntime {ort.__version__}; microseconds of MatMulNBits -> MatMulBlocks")
    rows = (1, 8, 64)
    _write(f"\n| K x N | format | threads | {_heads(rows)} |")
    _write("|---|---|---|" + "---|" * len(rows))
    for columns, size in ((576, 1536), (896, 4864)):
        for form in (Format(4, 32), Format(8, 32), Format(8, 64)):
            for num_threads in (1, 2):
                cells = [_compared(library, form, columns, size, num_rows, num_threads) for num_rows in rows]
                _write(f"| {columns} x {size} | {form} | {num_threads} | {' | '.join(cells)} |")


def _compared(library: KernelLibrary, form: Format, columns: int, size: int, num_rows: int, num_threads: int) -> str:
    """Time both operators in turn: the least of 25 rounds, since other work only ever adds.

    Idle threads sleep, so that neither session takes the other's core.
    """
    constants = stored_constants(weights_of(form, columns, size))
    shape = {"columns": columns, "rows": size, "bits": form.bits, "block_size": form.block}
    models = [
        product_model("com.microsoft", "MatMulNBits", constants, **shape, accuracy_level=4),
        product_model(DOMAIN, OPERATOR, constants, **shape),
    ]
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    library.register(options)
    sessions = [ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]) for model in models]
    x = np.random.default_rng(1).normal(size=(num_rows, columns)).astype(np.float32)
    times: list[list[float]] = [[], []]
    repeats = max(2, 100 // num_rows)
    for _ in range(25):
        for session, taken in zip(sessions, times, strict=True):
            session.run(None, {"x": x})
            begin = time.perf_counter()
            for _ in range(repeats):
                session.run(None, {"x": x})
            taken.append((time.perf_counter() - begin) / repeats * 1e6)
    stock, ours = (min(taken) for taken in times)
    return f"{stock:.1f} -> {ours:.1f} ({stock / ours:.2f} x)"


if __name__ == "__main__":
    main()
