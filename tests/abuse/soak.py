"""`make soak`: mixed load, clients that leave, slow readers, bad input, installs; then what it did to the server.

Run as `python -m tests.abuse.soak --minutes 10`; the exit status is 1 where a promise was broken. The server is a
process of its own, over a copy of the starter models; clients and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from appliance.errors import LanternError
from appliance.home import Home, lantern_home
from appliance.remote.administration import RemoteAdministration
from tests.abuse.server_process import ServerProcess, server_process
from tests.install.tiny_bundles import TinyDevice

CHAT, ENCODER = "smollm2-135m-instruct", "all-minilm-l6-v2"
_LOAD_S = 25.0  # between two samples
_REST_S = 12.0  # of a sample: the server gives freed memory back at least once meanwhile
_POLL_S = 0.25
_MAX_SLOPE_MIB_PER_H = 1.0
_MAX_DRIFT = 0.10
_KEY = "sk-of-the-soak-test"
_INSTALL_INTERVAL_S = 15.0
_MIN_FOR_DRIFT = 1000  # below this, 10 % of a p95 is chance


@dataclass
class Soak:
    """The state of the soak; owned by the loop of the clients."""

    session: aiohttp.ClientSession
    port: int
    began_s: float
    maker: TinyDevice
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)  # when, how long: of one fixed request
    samples: list[tuple[float, float, int, int]] = field(default_factory=list)  # when, MiB, descriptors, threads
    may_act: asyncio.Event = field(default_factory=asyncio.Event)
    num_acting: int = 0

    def now_s(self) -> float:
        return time.monotonic() - self.began_s

    async def chat(self, **changes: object) -> None:
        words = " ".join(random.choices(["light", "shelf", "house", "river", "stone"], k=random.randint(1, 200)))
        body = {"model": CHAT, "messages": [{"role": "user", "content": words}], "max_tokens": random.randint(1, 40)}
        async with self.session.post("/v1/chat/completions", json={**body, **changes}) as answer:
            await answer.read()
            self.outcomes[f"chat {answer.status}"] += 1

    async def fill(self, num_rows: int = 4) -> None:
        """Take once what the largest work takes: rows of the cache fill only as they are used, and so do the scratch
        buffers of an encoder, of which each length of text cuts other pieces."""
        words = [f"{i} " + "light " * 1800 for i in range(num_rows)]
        await asyncio.gather(*(self.chat(messages=[{"role": "user", "content": w}], max_tokens=1) for w in words))
        for num_words in (240, 120, 60, 30, 14, 6, 1) * 2:
            await self.embed(["lantern " * num_words] * min(64, 1024 // (num_words + 2)))

    async def fixed(self) -> None:
        """The request whose time is compared over the hours."""
        body = {
            "model": CHAT,
            "messages": [{"role": "user", "content": "Say hi."}],
            "max_tokens": 8,
            "ignore_eos": True,
        }
        started_s = time.monotonic()
        async with self.session.post("/v1/chat/completions", json=body) as answer:
            await answer.read()
            self.outcomes[f"fixed {answer.status}"] += 1
            if answer.status == 200:
                self.latencies.append((self.now_s(), time.monotonic() - started_s))

    async def embed(self, texts: Sequence[str] = ()) -> None:
        texts = texts or ["lantern " * random.randint(1, 60) for _ in range(random.randint(1, 16))]
        async with self.session.post("/v1/embeddings", json={"model": ENCODER, "input": texts}) as answer:
            await answer.read()
            self.outcomes[f"embed {answer.status}"] += 1

    async def leave(self) -> None:
        """Go away in the middle of an answer, or before it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0.01, 0.5)):
                await self.chat(stream=random.random() < 0.5, max_tokens=500, ignore_eos=True)
        self.outcomes["left"] += 1

    async def read_slowly(self) -> None:
        body = {"model": CHAT, "messages": [{"role": "user", "content": "x"}], "max_tokens": 60, "stream": True}
        async with self.session.post("/v1/chat/completions", json=body) as answer:
            while await answer.content.read(64):
                await asyncio.sleep(0.02)
            self.outcomes[f"slow {answer.status}"] += 1

    async def send_nonsense(self) -> None:
        bad: list[object] = [{}, {"model": "x"}, [1], "x", {"model": CHAT, "messages": [{"role": "king"}]}]
        bad += [
            {"model": CHAT, "messages": [], "n": 10**9},
            {"model": CHAT, "messages": [{"role": "user", "content": 7}]},
        ]
        async with self.session.post("/v1/chat/completions", json=random.choice(bad)) as answer:
            await answer.read()
            self.outcomes[f"nonsense {answer.status}"] += 1

    async def install(self) -> None:
        """Push a model of a few kilobytes in a new version, ask it, and now and then remove or roll it back."""
        administration = RemoteAdministration(self.session)
        made = await asyncio.to_thread(self.maker.make, random.randrange(1 << 30), name="visitor")
        await administration.install(made)
        shutil.rmtree(made)
        async with self.session.post("/v1/embeddings", json={"model": "visitor", "input": "The lantern"}) as answer:
            await answer.read()
            self.outcomes[f"visitor {answer.status}"] += 1
        self.outcomes["installs"] += 1
        match random.randrange(4):
            case 0:
                await administration.remove("visitor")
            case 1 if len((await administration.overview())["models"][-1]["versions"]) > 1:
                await administration.rollback("visitor")

    async def send_garbage(self) -> None:
        """Bytes that are no HTTP, or a request that stops half way."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n"
        writer.write(random.choice([random.randbytes(200), b"GET / HTTP/9\r\n\r\n", head, head[:20]]))
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1.0):
                await reader.read()
        writer.close()
        self.outcomes["garbage"] += 1


async def _forever(action: Callable[[], Awaitable[None]], soak: Soak, pause_s: float) -> None:
    while True:
        await soak.may_act.wait()
        soak.num_acting += 1
        try:
            await action()
        except (aiohttp.ClientError, ConnectionError, LanternError) as err:
            soak.outcomes[f"BROKEN {type(err).__name__} {str(err)[:80]}"] += 1
        finally:
            soak.num_acting -= 1
        await asyncio.sleep(pause_s)


def anonymous_mib(pid: int) -> float:
    """Memory of the process that is no mapped file: the weights are, and their pages come and go as they are used."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    [line] = [line for line in rollup.splitlines() if line.startswith("Anonymous:")]
    return int(line.split()[1]) / 1024


async def _sample(soak: Soak, pid: int) -> None:
    """Load, then rest: what a server holds while it works says little about what it keeps."""
    process = psutil.Process(pid)
    while True:
        soak.may_act.set()
        await asyncio.sleep(_LOAD_S)
        soak.may_act.clear()
        while soak.num_acting:
            await asyncio.sleep(_POLL_S)
        rest_s = soak.now_s()
        held = []
        while soak.now_s() < rest_s + _REST_S:
            await asyncio.sleep(_POLL_S)
            held.append(anonymous_mib(pid))
        soak.samples.append((soak.now_s(), min(held), process.num_fds(), process.num_threads()))


async def run(server: ServerProcess, maker: TinyDevice, minutes: float) -> Soak:
    """Load the server for this long."""
    timeout = aiohttp.ClientTimeout(total=900)
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {_KEY}"}
    async with aiohttp.ClientSession(server.root_url, connector=connector, timeout=timeout, headers=headers) as session:
        soak = Soak(session, server.port, time.monotonic(), maker)
        await soak.fill()
        soak.began_s = time.monotonic()
        actions = [(action, 0.0) for action in (soak.chat, soak.chat, soak.leave, soak.leave, soak.read_slowly)]
        actions += [(soak.fixed, 0.5), (soak.embed, 0.2), (soak.send_nonsense, 0.2), (soak.send_garbage, 0.0)]
        actions += [(soak.install, _INSTALL_INTERVAL_S)]
        tasks = [asyncio.create_task(_forever(action, soak, pause_s)) for action, pause_s in actions]
        tasks.append(asyncio.create_task(_sample(soak, server.pid)))
        await asyncio.wait(tasks, timeout=60 * minutes, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return soak


def slope(times_s: list[float], values: list[float]) -> tuple[float, float]:
    """Slope an hour of a least-squares line, and its standard error.

    Neighbouring samples are alike, so that there are fewer independent ones than samples: the error is widened by the
    residuals' correlation at a lag of one (an autoregressive process of first order).
    """
    x, y = np.array(times_s) / 3600, np.array(values)
    x = x - x.mean()
    steepness = float((x * (y - y.mean())).sum() / (x * x).sum())
    residual = y - y.mean() - steepness * x
    squares = float((residual**2).sum())
    error = math.sqrt(squares / max(1, len(y) - 2) / float((x * x).sum()))
    likeness = float((residual[1:] * residual[:-1]).sum()) / squares if squares else 0.0
    likeness = min(0.999, max(0.0, likeness))
    return steepness, error * math.sqrt((1 + likeness) / (1 - likeness))


def report(soak: Soak, minutes: float) -> bool:
    """Print the figures; whether every promise held. The first third warms up."""
    warm_s = 20 * minutes
    late = [s for s in soak.samples if s[0] > warm_s]
    steepness, error = slope([s[0] for s in late], [s[1] for s in late])
    first, last = late[: len(late) // 3], late[-len(late) // 3 :]
    half_s = (warm_s + 60 * minutes) / 2
    early_ms = [1e3 * t for at, t in soak.latencies if warm_s < at <= half_s]
    late_ms = [1e3 * t for at, t in soak.latencies if at > half_s]
    p95_early, p95_late = float(np.quantile(early_ms, 0.95)), float(np.quantile(late_ms, 0.95))
    drift = p95_late / p95_early - 1
    fds, threads = ([int(np.median([s[i] for s in part])) for part in (first, last)] for i in (2, 3))
    broken = {
        k: n for k, n in soak.outcomes.items() if k.startswith("BROKEN") or k.split()[-1] in {"500", "502", "504"}
    }
    sys.stdout.write(
        f"requests     {json.dumps(dict(sorted(soak.outcomes.items())))}\n"
        f"memory       {late[0][1]:.1f} MiB -> {late[-1][1]:.1f} MiB, {steepness:+.2f} ± {error:.2f} MiB/h\n"
        f"descriptors  {fds[0]} -> {fds[1]}\nthreads      {threads[0]} -> {threads[1]}\n"
        f"p95          {p95_early:.0f} ms -> {p95_late:.0f} ms ({drift:+.0%}) of {len(early_ms)} + {len(late_ms)}\n"
        f"broken       {broken or 'none'}\n"
    )
    if error > _MAX_SLOPE_MIB_PER_H / 2:
        sys.stdout.write("             too short a run to tell a slope of 1 MiB/h from none\n")
    is_flat = steepness - error < _MAX_SLOPE_MIB_PER_H and threads[1] <= threads[0] + 2 and fds[1] <= fds[0] + 8
    is_steady = drift < _MAX_DRIFT or len(late_ms) < _MIN_FOR_DRIFT
    return is_flat and is_steady and not broken


def main() -> int:
    """Start a server over a copy of LANTERN_HOME's models, load it, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="lantern-soak-") as folder:
        maker = TinyDevice(Path(folder))
        home = Home(Path(folder) / "home")
        _copy_starters(lantern_home(), home)
        with server_process(home, LANTERN_API_KEY=_KEY) as server:
            return 0 if report(asyncio.run(run(server, maker, minutes)), minutes) else 1


def _copy_starters(source: Home, home: Home) -> None:
    """Copy the models and the keys that signed them: a store has every file to itself."""
    for path in source.trusted_keys.glob("*.pub"):
        shutil.copy(path, home.trusted_keys)
    for name in (CHAT, ENCODER):
        active = source.bundles / name / "active"
        shutil.copytree(active, home.bundles / name / active.readlink().name)
        (home.bundles / name / "active").symlink_to(active.readlink().name)


if __name__ == "__main__":
    sys.exit(main())
