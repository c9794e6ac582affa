"""`make figures`: load and faults in numbers of this machine, beside the promises of SECURITY.md.

Run as `python -m tests.abuse.figures`; the exit status is 1 where a promise was broken. The server is the real command
over the models of LANTERN_HOME; its clients share the machine, so a quiet one is needed: the load average is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import aiohttp
import httpx2
import numpy as np
import psutil

from appliance.home import Home, lantern_home
from tests.abuse.server_process import ServerProcess, server_process

CHAT, EMBEDDING = "smollm2-135m-instruct", "all-minilm-l6-v2"
_PATH = "/v1/chat/completions"
_SECONDS = 20.0
_MAX_HEALTH_S = 0.25
_MAX_FREE_S = 0.25
_MAX_START_S = 3.0
_MAX_IDLE_MB = 330.0


def body(**changes: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Tell me a story."}
    return {"model": CHAT, "messages": [message], "ignore_eos": True, "max_tokens": 32, **changes}


@dataclass
class Verdict:
    """The promises that were broken, if any."""

    broken: list[str] = field(default_factory=list)

    def tell(self, name: str, text: str, *, holds: bool) -> None:
        sys.stdout.write(f"{name:22} {text}{'' if holds else '   BROKEN'}\n")
        sys.stdout.flush()
        if not holds:
            self.broken.append(name)


def measure_start(home: Home, verdict: Verdict, *, num: int = 5) -> None:
    """From the start of the process to the first 200 of /ready, with models that this processor has seen before."""
    with server_process(home):
        pass
    times_s = []
    for _ in range(num):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        started_s = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "appliance", "serve", "--port", str(port)],
            env={**os.environ, "LANTERN_HOME": str(home.root)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not _is_ready(f"http://127.0.0.1:{port}/ready"):
            time.sleep(0.01)
        times_s.append(time.monotonic() - started_s)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    verdict.tell("start to ready", f"{_spread(times_s, 's')} (promised: under 3 s)", holds=max(times_s) < _MAX_START_S)


def _is_ready(url: str) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return httpx2.get(url, timeout=5).status_code == 200
    return False


def measure_memory(home: Home, verdict: Verdict) -> None:
    """The resident memory of a server that nobody asks, and after each starter model was used once.

    Weights are mapped: pages that were read count as resident, and the kernel takes them back if others need memory.
    """
    with server_process(home) as server, httpx2.Client(base_url=server.root_url, timeout=120) as client:
        while not _is_ready(f"{server.root_url}/ready"):
            time.sleep(0.05)
        process = psutil.Process(server.pid)
        idle_mb = process.memory_info().rss / 1e6
        assert client.post(_PATH, json=body()).status_code == 200
        assert client.post("/v1/embeddings", json={"model": EMBEDDING, "input": "a dog"}).status_code == 200
        used = process.memory_info()
    verdict.tell(
        "resident memory",
        f"{idle_mb:.0f} MB idle after the start (promised: {_MAX_IDLE_MB:.0f} MB); {used.rss / 1e6:.0f} MB after a "
        "chat and embeddings",
        holds=idle_mb <= _MAX_IDLE_MB,
    )


def measure_overload(home: Home, verdict: Verdict) -> None:
    """Ten times what a closed loop of as many clients as slots gets through, offered at an even rate."""
    with server_process(home, "--slots", "4") as server, _watched(server) as times_of_health:
        sustained = asyncio.run(_closed_loop(server, num_clients=4, seconds=_SECONDS / 2))
        times_of_health()
        statuses, broken = asyncio.run(_open_loop(server, rate=10 * sustained, seconds=_SECONDS))
        times_s = times_of_health()
    p99 = float(np.quantile(times_s, 0.99))
    verdict.tell("sustained", f"{sustained:.1f} requests/s of 32 tokens, 4 slots", holds=sustained > 0)
    verdict.tell(
        "ten times that",
        f"{sum(statuses.values())} requests in {_SECONDS:.0f} s: {dict(sorted(statuses.items()))}, "
        f"broken: {dict(broken) or 'none'}",
        holds=not broken and set(statuses) <= {200, 429, 503},
    )
    verdict.tell(
        "/health meanwhile",
        f"p50 {1e3 * float(np.median(times_s)):.0f} ms, p99 {1e3 * p99:.0f} ms of {len(times_s)} (promised: 250 ms)",
        holds=p99 < _MAX_HEALTH_S,
    )


async def _closed_loop(server: ServerProcess, *, num_clients: int, seconds: float) -> float:
    until_s, done = time.monotonic() + seconds, 0

    async def ask() -> None:
        nonlocal done
        while time.monotonic() < until_s:
            async with session.post(_PATH, json=body()) as answer:
                await answer.read()
                done += answer.status == 200

    async with aiohttp.ClientSession(server.root_url) as session:
        started_s = time.monotonic()
        await asyncio.gather(*(ask() for _ in range(num_clients)))
        return done / (time.monotonic() - started_s)


async def _open_loop(server: ServerProcess, *, rate: float, seconds: float) -> tuple[Counter[int], Counter[str]]:
    statuses: Counter[int] = Counter()
    broken: Counter[str] = Counter()

    async def ask() -> None:
        try:
            async with session.post(_PATH, json=body()) as answer:
                told = await answer.json()
                statuses[answer.status] += 1
                if answer.status != 200 and not ("error" in told and int(answer.headers.get("retry-after", "0")) > 0):
                    broken[f"{answer.status} without Retry-After"] += 1
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as err:
            broken[type(err).__name__] += 1

    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # a connection each
    async with aiohttp.ClientSession(server.root_url, connector=connector) as session, asyncio.TaskGroup() as tasks:
        started_s = time.monotonic()
        for i in range(int(rate * seconds)):
            await asyncio.sleep(started_s + i / rate - time.monotonic())
            tasks.create_task(ask())
    return statuses, broken


@contextlib.contextmanager
def _watched(server: ServerProcess) -> Iterator[Callable[[], list[float]]]:
    """Ask for /health all the time, from a process of its own; the function gives the times since its last call."""
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    watcher = processes.Process(target=_watch, args=(server.port, theirs), daemon=True)
    watcher.start()

    def times_s() -> list[float]:
        ours.send("times")
        found: list[float] = ours.recv()
        return found

    try:
        times_s()
        yield times_s
    finally:
        watcher.terminate()
        watcher.join()


def _watch(port: int, pipe: Connection) -> None:
    times_s: list[float] = []
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        while True:
            if pipe.poll(0.02):
                pipe.recv()
                pipe.send(times_s)
                times_s = []
            started_s = time.monotonic()
            client.get("/health")
            times_s.append(time.monotonic() - started_s)


def measure_leaving(home: Home, verdict: Verdict, *, num: int = 10) -> None:
    """From the moment when a client closes its connection to that when /health shows its place free."""
    with server_process(home, "--slots", "1") as server:
        for state in ("running, streamed", "running, not streamed", "queued"):
            times_s = [_leave(server, state) for _ in range(num)]
            verdict.tell(
                f"left {state}", f"{_spread(times_s, 's')} (promised: 250 ms)", holds=max(times_s) < _MAX_FREE_S
            )


def _leave(server: ServerProcess, state: str) -> float:
    counted = "num_waiting" if state == "queued" else "num_running"
    with httpx2.Client(base_url=server.root_url, timeout=60) as client, contextlib.ExitStack() as stack:
        _until(client, lambda stats: stats["num_running"] + stats["num_waiting"] == 0)
        if state == "queued":
            stack.enter_context(_send(server, stream=True))
            _until(client, lambda stats: stats["num_running"] == 1)
        leaving = stack.enter_context(_send(server, stream=state == "running, streamed"))
        _until(client, lambda stats: stats[counted] == 1)
        leaving.close()
        started_s = time.monotonic()
        _until(client, lambda stats: stats[counted] == 0)
        return time.monotonic() - started_s


def _until(client: httpx2.Client, condition: Callable[[dict[str, int]], bool]) -> None:
    while not condition(client.get("/health").json()["engines"][CHAT]):
        time.sleep(0.002)


def _send(server: ServerProcess, *, stream: bool) -> socket.socket:
    data = json.dumps(body(stream=stream, max_tokens=1900)).encode()
    sock = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST {_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return sock


def measure_drain(home: Home, verdict: Verdict) -> None:
    """Four streams run, the server is told to stop, all of them end as they would have; it exits with 0."""
    with server_process(home, "--slots", "4") as server:
        ended, seconds = asyncio.run(_drain(server))
    verdict.tell(
        "SIGTERM", f"{ended} of 4 streams ended whole in {seconds:.1f} s after it, exit status 0", holds=ended == 4
    )


async def _drain(server: ServerProcess) -> tuple[int, float]:
    begun = asyncio.Barrier(5)

    async def read() -> bool:
        async with session.post(_PATH, json=body(stream=True, max_tokens=120)) as answer:
            lines = [await answer.content.readline()]
            await begun.wait()
            lines += [line async for line in answer.content]
        events = [line for line in lines if line.startswith(b"data: {")]
        last = json.loads(events[-1].removeprefix(b"data: "))
        return lines[-2].strip() == b"data: [DONE]" and last["choices"][0]["finish_reason"] == "length"

    async with aiohttp.ClientSession(server.root_url, connector=aiohttp.TCPConnector(limit=0)) as session:
        streams = [asyncio.create_task(read()) for _ in range(4)]
        await begun.wait()
        os.kill(server.pid, signal.SIGTERM)
        started_s = time.monotonic()
        whole = await asyncio.gather(*streams)
        return sum(whole), time.monotonic() - started_s


def _spread(values: list[float], unit: str) -> str:
    return f"median {float(np.median(values)):.3f}, worst {max(values):.3f} {unit} of {len(values)}"


def main() -> int:
    """Measure all of it, over the models of LANTERN_HOME."""
    home, verdict = lantern_home(), Verdict()
    sys.stdout.write(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}\n")
    for measure in (measure_start, measure_memory, measure_overload, measure_leaving, measure_drain):
        measure(home, verdict)
    sys.stdout.write(f"load average {os.getloadavg()[0]:.2f}, of which this is a part\n")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    sys.exit(main())
