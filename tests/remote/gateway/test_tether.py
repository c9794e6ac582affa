"""A program that ends with the process that started it, also when that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest

from appliance.remote.gateway.tether import tethered

_STARTS_ANOTHER = """
import subprocess, sys
from appliance.remote.gateway.tether import tethered
command = [sys.executable, "-c", "print('it runs', flush=True); input()"]
child = subprocess.Popen(tethered(command), stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_it_ends_when_the_one_that_started_it_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _STARTS_ANOTHER], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = {parent.stdout.readline().strip() for _ in range(2)}
        assert "it runs" in said
        [pid] = said - {"it runs"}
        child = psutil.Process(int(pid))
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_it_is_the_program_itself_with_its_own_exit_code_and_output() -> None:
    done = subprocess.run(tethered(["/bin/sh", "-c", "echo $$; exit 7"]), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip().isdigit()) == (7, True)


def test_it_does_not_start_for_a_process_that_has_ended() -> None:
    command = tethered(["/bin/echo", "it runs"])
    command[command.index(str(os.getpid()))] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has ended already" in done.stderr
