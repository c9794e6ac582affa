"""Become another program, one that the kernel ends with the process that started it, however that came to its end.

`python tether.py PARENT COMMAND ...`, started from PARENT's main thread: the kernel watches the thread that made the
process. A step of its own, because nothing may run between fork and exec of a program with threads. Elsewhere than on
Linux the program just runs. Imports nothing of ours, so that it is no delay.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept through exec


def tethered(command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` tethered to this process; it begins with a path."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    """Run the program that is named, in this very process."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("The process that this belongs to has ended already.")
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
