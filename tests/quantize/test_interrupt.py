"""Ctrl-C while a library is imported, which ends the process where C++ imports: it comes when the import has ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

_SLOW = """
import time
print("importing", flush=True)
for _ in range(30):
    time.sleep(0.01)
print("imported", flush=True)
"""
_PROGRAM = """
import time
from quantize.interrupt import interrupt_outside_imports
interrupt_outside_imports()
try:
    import slow
    print("working", flush=True)
    time.sleep(600)
    print("slept", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_an_interrupt_waits_for_the_end_of_an_import(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(_SLOW)
    said = _said_after("importing", tmp_path)
    assert said[:2] == ["importing", "imported"]
    assert said[-1] == "interrupted"


def test_an_interrupt_outside_of_an_import_comes_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(_SLOW)
    assert _said_after("working", tmp_path)[-1] == "interrupted"


def _said_after(line: str, folder: Path) -> list[str]:
    """Run the program with a module `slow` in `folder`, which gets Ctrl-C after a line; return what it prints."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{_PROGRAM}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = []
        for word in process.stdout:
            said.append(word.strip())
            if said[-1] == line:
                process.send_signal(signal.SIGINT)
    return said
