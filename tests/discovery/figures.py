"""Figures of discovery and announcing: `python -m tests.discovery.figures`, as root, in quiet times.

Two network namespaces and real multicast, as in the tests; prints each figure as a line of JSON once it is measured. A
quiet machine takes about a minute.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.lan import Lan, Node, open_lan

_QUIET_S = 2.0  # who answered by multicast within a second is silent for the next one (RFC 6762 section 6)
_TIMEOUT_S = 30.0


def main() -> None:
    """Measure one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--idle-s", type=float, default=15.0)
    args = parser.parse_args()
    with open_lan() as lan:
        lan.add(lan.a, "10.77.0.1/24")
        lan.add(lan.b, "10.77.0.2/24")
        show("start_to_resolvable_s", start_to_resolvable_s(lan, args.runs))
        show("first_device_found_s", first_device_found_s(lan, args.runs))
        show("address_change_to_resolvable_s", address_change_to_resolvable_s(lan, args.runs))
        show("announcer_idle_cpu_percent", [idle_cpu_percent(lan, args.idle_s)])


def show(figure: str, values: Sequence[float]) -> None:
    """The figure as it is shown, and how busy the machine was."""
    load = round(psutil.getloadavg()[0], 2)
    median, worst = round(statistics.median(values), 3), round(max(values), 3)
    line = {"figure": figure, "median": median, "worst": worst, "runs": len(values), "load_average": load}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def start_to_resolvable_s(lan: Lan, runs: int) -> list[float]:
    """From the call that starts the announcer to a watcher that has its address; a process for each."""
    watcher = lan.node(lan.b, "watch")
    watcher.event("watching", timeout_s=_TIMEOUT_S)
    took = []
    for _ in range(runs):
        device = lan.node(lan.a, "announce")
        seen = watcher.wait(lambda facts: bool(facts["devices"]), timeout_s=_TIMEOUT_S)
        took.append(float(seen["at_s"] - device.event("started", timeout_s=_TIMEOUT_S)["at_s"]))
        device.event("announced", timeout_s=_TIMEOUT_S)
        leave(device)
        watcher.devices(lambda found: not found, timeout_s=_TIMEOUT_S)
    watcher.close()
    return took


def first_device_found_s(lan: Lan, runs: int) -> list[float]:
    """From the call of `find()` to its first device, of a process each, on a quiet network."""
    device = announcing(lan)
    found = []
    for _ in range(runs):
        time.sleep(_QUIET_S)
        finder = lan.node(lan.b, "find_first")
        found.append(float(finder.event("found", timeout_s=_TIMEOUT_S)["took_s"]))
        finder.close()
    leave(device)
    return found


def address_change_to_resolvable_s(lan: Lan, runs: int) -> list[float]:
    """From the new address to a watcher that has it in its URL."""
    device, watcher = announcing(lan), lan.node(lan.b, "watch")
    watcher.devices(lambda found: bool(found), timeout_s=_TIMEOUT_S)
    took = []
    for former, new in itertools.pairwise(f"10.77.0.{number}" for number in [1, *range(11, 10 + runs), 1]):
        lan.remove(lan.a, f"{former}/24")
        lan.add(lan.a, f"{new}/24")
        changed_s = time.monotonic()
        took.append(float(url_seen(watcher, f"http://{new}:8080/v1")["at_s"] - changed_s))
    leave(device)
    watcher.close()
    return took


def idle_cpu_percent(lan: Lan, seconds: float) -> float:
    """Of one core, of a process that does nothing but announce."""
    device = announcing(lan)
    before_s = cpu_s(device.pid)
    time.sleep(seconds)
    used_s = cpu_s(device.pid) - before_s
    leave(device)
    return 100 * used_s / seconds


def cpu_s(pid: int) -> float:
    """By all threads of a process; times(2) would tell it in hundredths."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def url_seen(watcher: Node, url: str) -> dict[str, float]:
    """Return the watcher's first word of the URL."""
    return watcher.wait(lambda facts: any(d["base_url"] == url for d in facts["devices"]), timeout_s=_TIMEOUT_S)


def announcing(lan: Lan) -> Node:
    """A device on machine `a` that is announced."""
    device = lan.node(lan.a, "announce")
    device.event("announced", timeout_s=_TIMEOUT_S)
    return device


def leave(device: Node) -> None:
    """Say goodbye, and end."""
    device.tell("stop")
    device.event("stopped", timeout_s=_TIMEOUT_S)
    device.close()


if __name__ == "__main__":
    main()
