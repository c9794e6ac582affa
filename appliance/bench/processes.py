"""The processes that answer on this machine: a `lantern serve` of our own, and how much memory any of them holds."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psutil

from appliance.bench.errors import BenchError
from appliance.models import EngineSettings

_ENVIRONMENT_PREFIX = "LANTERN_"
_KEPT = "LANTERN_HOME"
_POLL_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that answers."""

    url: str
    pid: int
    ready_s: float


@dataclass(frozen=True, slots=True)
class ResidentMemory:
    """Bytes in memory; the anonymous part is what cannot be dropped and read again from a file.

    A page counts once, however often the process maps it: three graphs that share their weights map them three times.

    Mappings of no file that a process may share count as anonymous, which Linux lists apart: keys and values are such.
    """

    resident_bytes: int
    anonymous_bytes: int | None


@contextlib.asynccontextmanager
async def running_server(
    settings: EngineSettings,
    *,
    ready_timeout_s: float = 300.0,
    poll_interval_s: float = 0.01,
    stop_timeout_s: float = 15.0,
) -> AsyncIterator[ServerProcess]:
    """Run a child `lantern serve` on a free loopback port, with these settings and none of the user's others.

    Raises:
        BenchError: it ends before it answers, or does not answer in time.
    """
    port = _free_port()
    begin_s = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *_command(settings, port),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(os.environ),
    )
    assert process.stderr is not None
    last_words = asyncio.create_task(_last_line(process.stderr))
    try:
        url = f"http://127.0.0.1:{port}"
        await _wait_until_healthy(url, process, begin_s + ready_timeout_s, poll_interval_s)
        if process.returncode is not None:
            reason = await last_words or f"exit code {process.returncode}"
            raise BenchError(f"the server ended before it was ready: {reason.removeprefix('lantern: ')}")
        yield ServerProcess(url, process.pid, time.perf_counter() - begin_s)
    finally:
        await _stop(process, stop_timeout_s)
        await last_words


def resident_memory(pid: int) -> ResidentMemory | None:
    """Return the resident memory of a process; None if it is gone or not ours to see."""
    try:
        resident = psutil.Process(pid).memory_info().rss
        status, rollup = _sizes(f"/proc/{pid}/status"), _sizes(f"/proc/{pid}/smaps_rollup")
    except (psutil.Error, OSError):
        return None
    parts = [status[name] for name in ("RssAnon", "RssShmem") if name in status]
    return ResidentMemory(rollup.get("Pss", resident), sum(parts) if parts else None)


def _sizes(path: str) -> dict[str, int]:
    """Return the bytes of each line "Name: N kB"; nothing on a system without such a file."""
    file = Path(path)
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    found = (line.split() for line in lines if line.endswith(" kB"))
    return {words[0].removesuffix(":"): int(words[1]) * 1024 for words in found}


def listening_process(url: str) -> int | None:
    """Return the process of this machine that answers at a loopback URL, if the system tells."""
    parts = urlsplit(url)
    try:
        if parts.hostname != "localhost" and not ipaddress.ip_address(parts.hostname or "").is_loopback:
            return None
        connections = psutil.net_connections("tcp")
    except (ValueError, psutil.Error, OSError):
        return None
    wanted = (psutil.CONN_LISTEN, parts.port or 80)
    return next((c.pid for c in connections if c.laddr and (c.status, c.laddr.port) == wanted), None)


def _command(settings: EngineSettings, port: int) -> list[str]:
    command = [
        *(sys.executable, "-m", "appliance", "serve", "--config", os.devnull),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--slots", str(settings.num_slots), "--context-length", str(settings.context_length)),
    ]
    if settings.num_threads is not None:
        command += ["--threads", str(settings.num_threads)]
    if settings.spinning is not None:
        command.append("--spinning" if settings.spinning else "--no-spinning")
    return command


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the user's environment less settings: a key or an announcement has no place in a measurement."""
    return {k: v for k, v in environment.items() if k == _KEPT or not k.startswith(_ENVIRONMENT_PREFIX)}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def _wait_until_healthy(
    url: str, process: asyncio.subprocess.Process, deadline_s: float, poll_interval_s: float
) -> None:
    """Return once it answers, or has ended."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_POLL_TIMEOUT_S)) as session:
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            if time.perf_counter() > deadline_s:
                raise BenchError("the server was not ready in time; see why with: lantern serve")
            await asyncio.sleep(poll_interval_s)


async def _last_line(stream: asyncio.StreamReader) -> str:
    """Read to the end, so that the pipe never fills; the last line says why a process ended."""
    last = b""
    async for line in stream:
        last = line.strip() or last
    return last.decode("utf-8", "replace")


async def _stop(process: asyncio.subprocess.Process, timeout_s: float) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            process.kill()
            await process.wait()
