"""The entry of `lantern-quantize` and of `python -m quantize`."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from quantize.cli import main
from quantize.interrupt import interrupt_outside_imports


def run() -> NoReturn:
    """Run one command and exit with its code."""
    interrupt_outside_imports()
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said, and the libraries still clean up
    sys.exit(code)


if __name__ == "__main__":
    run()
