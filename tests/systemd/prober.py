"""Asks a server over and over, each time on a new connection, until its input ends; prints what happened as JSON.

A program of its own, since it runs in the network of a container. Standard library only.
"""

from __future__ import annotations

import collections
import http.client
import json
import select
import sys
import time


def main(path: str, key: str) -> None:
    outcomes: collections.Counter[str] = collections.Counter()
    longest_s = 0.0
    sys.stdout.write("started\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        began_s = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
            outcomes[str(connection.getresponse().status)] += 1
        except OSError as err:
            outcomes[type(err).__name__] += 1
        finally:
            connection.close()
        longest_s = max(longest_s, time.monotonic() - began_s)
    sys.stdout.write(json.dumps({"outcomes": outcomes, "longest_s": round(longest_s, 3)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
