"""Coverage-guided fuzzing of one parser: `python -m tests.fuzz TARGET --seconds N [--corpus FOLDER]`.

Runs on libFuzzer through atheris, which is no dependency of the tests: `make fuzz` installs it. A finding is written to
the folder `findings` here, in one named as the target, where test_findings.py tries it from then on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["appliance", "quantize"]):
    from tests.fuzz.targets import TARGETS
from tests.fuzz.typical import TYPICAL, real_inputs

_FINDINGS = Path(__file__).with_name("findings")
_SLOWEST_S = 10


def main() -> None:
    """Run one target until the time is over or it fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, required=True, help="kept between runs")
    args = parser.parse_args()
    corpus, findings = args.corpus / args.target, _FINDINGS / args.target
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate((*TYPICAL[args.target], *real_inputs(args.target))):
        (corpus / f"typical-{number}").write_bytes(data)
    logging.disable()
    options = [f"-max_total_time={args.seconds}", f"-timeout={_SLOWEST_S}", "-max_len=20000", "-rss_limit_mb=2048"]
    options += [f"-artifact_prefix={findings}/", "-print_final_stats=1", "-verbosity=0", f"{corpus}", f"{findings}"]
    atheris.Setup([sys.argv[0], *options], TARGETS[args.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
