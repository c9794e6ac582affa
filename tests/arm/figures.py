"""The table of docs/arm.md: `make arm-figures`, or python -m tests.arm.figures [--bundle FOLDER] [--gguf FILE].

Whole decoders under qemu-user, with one thread: the instructions of a token and of a prompt's token, and the memory
that a token reads, with the stock operators, with Lantern's kernels and in llama.cpp. Nothing is timed. Without options
it takes the starter of LANTERN_HOME, and for llama.cpp the GGUF file from which the starter was made. What it needs
comes with `make image-deps`; emulator and llama.cpp are Debian's packages, unpacked into the cache.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from appliance.home import lantern_home
from tests.arm.counting import Count, Workplace, missing_tool

# The last one has i8mm, as the cores after Cortex-A78 have; their SVE and SME are not counted.
PROCESSORS = ("cortex-a53", "cortex-a72", "cortex-a76", "max,sve=off,sme=off")
_QUANTIZATIONS = ("Q4_0", "Q4_K_M")
_PAST, _PROMPT = 128, 128
_STARTER = "smollm2-135m-instruct"

_Counted = Callable[[int, int], Count]


def main() -> None:
    """Print the tables, a row as soon as it is counted."""
    options = _options()
    reason = missing_tool()
    if reason is not None:
        raise SystemExit(f"Nothing can be counted here: {reason}")
    with tempfile.TemporaryDirectory(prefix="lantern-arm-") as scratch:
        workplace = Workplace.make(Path(scratch))
        _write(f"{workplace.versions()}, on {platform.machine()}")
        _write("| processor | | a token at context 128, M instructions | MB read | a prompt's token, M instructions |")
        _write("|---|---|---|---|---|")
        models = _llama_models(workplace, options.gguf) if options.gguf is not None else {}
        for processor in options.processors:
            for name, counted in _candidates(workplace, processor, options.bundle, models).items():
                _write(_row(processor, name, counted))


def _options() -> argparse.Namespace:
    starter = lantern_home().bundles / _STARTER / "active"
    sources = sorted((lantern_home().root / "cache/sources").glob("**/*.gguf"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=starter, help="a decoder's bundle")
    parser.add_argument(
        "--gguf", type=Path, default=sources[0] if sources else None, help="the same model for llama.cpp"
    )
    parser.add_argument("--processors", nargs="+", default=PROCESSORS, help="as qemu-aarch64 -cpu names them")
    return parser.parse_args()


def _row(processor: str, name: str, counted: _Counted) -> str:
    token, prompt = counted(_PAST, 1), counted(0, _PROMPT)
    cells = (f"{token.instructions / 1e6:.1f}", f"{token.lines * 64 / 1e6:.1f}")
    return f"| {processor} | {name} | {' | '.join(cells)} | {prompt.instructions / _PROMPT / 1e6:.1f} |"


def _candidates(workplace: Workplace, processor: str, bundle: Path, models: dict[str, Path]) -> dict[str, _Counted]:
    forms = workplace.forms(processor, bundle.resolve())
    found: dict[str, _Counted] = {
        f"Lantern, {'stock operators' if name == 'stock' else 'its kernels'}": workplace.decoder(processor, form)
        for name, form in forms.items()
    }
    return found | {f"llama.cpp, {name}": workplace.llama(processor, path) for name, path in models.items()}


def _llama_models(workplace: Workplace, gguf: Path) -> dict[str, Path]:
    return {name: workplace.quantized(gguf.resolve(), name) for name in _QUANTIZATIONS}


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
