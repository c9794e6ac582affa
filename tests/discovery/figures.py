"""How fast a device is found, and what announcing costs: `python -m tests.discovery.figures`, as root, in quiet times.

Two network namespaces and real multicast, as in the tests; prints the median and the worst of every figure as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence

import psutil

from tests.lan import Lan, Node, open_lan

_QUIET_S = 2.0  # who answered by multicast within a second is silent for the next one (RFC 6762 section 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--idle-s", type=float, default=60.0)
    args = parser.parse_args()
    with open_lan() as lan:
        lan.add(lan.a, "10.77.0.1/24")
        lan.add(lan.b, "10.77.0.2/24")
        figures = {
            "start_to_resolvable_s": summary([start_to_resolvable_s(lan) for _ in range(args.runs)]),
            "first_device_found_s": summary(first_device_found_s(lan, args.runs)),
            "address_change_to_resolvable_s": summary([address_change_s(lan, number) for number in range(args.runs)]),
            "announcer_idle_cpu_percent": idle_cpu_percent(lan, args.idle_s),
            "load_average": psutil.getloadavg()[0],
        }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


def summary(values: Sequence[float]) -> dict[str, float]:
    """The figures that are shown."""
    return {"median": round(statistics.median(values), 3), "worst": round(max(values), 3), "runs": len(values)}


def start_to_resolvable_s(lan: Lan) -> float:
    """From the call that starts the announcer to a watcher that has its address."""
    watcher = lan.node(lan.b, "watch")
    watcher.event("watching")
    device = announcing(lan)
    seen = watcher.wait(lambda facts: bool(facts["devices"]))
    started = device.event("started")
    leave(device, watcher)
    return float(seen["at_s"] - started["at_s"])


def first_device_found_s(lan: Lan, runs: int) -> list[float]:
    """From the call of `find()` to its first device, of a process each, on a quiet network."""
    device = announcing(lan)
    device.event("announced")
    found = []
    for _ in range(runs):
        time.sleep(_QUIET_S)
        finder = lan.node(lan.b, "find_first")
        found.append(float(finder.event("found")["took_s"]))
        finder.close()
    leave(device)
    return found


def address_change_s(lan: Lan, number: int) -> float:
    """From the new address to a watcher that has it in its URL."""
    device, watcher = announcing(lan), lan.node(lan.b, "watch")
    device.event("announced")
    watcher.devices(lambda found: bool(found))
    former, new = (f"10.77.0.{10 + number}" if number else "10.77.0.1"), f"10.77.0.{11 + number}"
    lan.remove(lan.a, f"{former}/24")
    lan.add(lan.a, f"{new}/24")
    changed_s = time.monotonic()
    seen = watcher.wait(lambda facts: any(f"http://{new}:8080/v1" == d["base_url"] for d in facts["devices"]))
    leave(device, watcher)
    return float(seen["at_s"] - changed_s)


def idle_cpu_percent(lan: Lan, seconds: float) -> float:
    """Of one core, of a process that does nothing but announce."""
    device = announcing(lan)
    device.event("announced")
    process = psutil.Process(device.pid)
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    leave(device)
    return round(100 * (after.user + after.system - before.user - before.system) / seconds, 3)


def announcing(lan: Lan) -> Node:
    """A device on machine `a`."""
    return lan.node(lan.a, "announce")


def leave(*nodes: Node) -> None:
    """Say goodbye where that is known, and end."""
    for node in nodes:
        node.tell("stop")
    nodes[0].event("stopped")
    for node in nodes:
        node.close()


if __name__ == "__main__":
    main()
