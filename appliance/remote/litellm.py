"""LiteLLM's proxy as a program of ours: its configuration, its process, and the port in front of it.

A new configuration is a new process beside the old one: the port leads to it once it is healthy, and the old one ends
when its requests have. LiteLLM reads its file only when it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp

from appliance.errors import ConfigError, LanternError
from appliance.files import write_whole
from appliance.remote.fleet import Deployment

_LOGGER = logging.getLogger(__name__)

_CHUNK_BYTES = 64 * 1024
_POLL_S = 0.2
_QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "DISABLE_ADMIN_UI": "True"}


class GatewayError(LanternError):
    """LiteLLM does not start."""

    code = "gateway_error"


def configuration(deployments: Sequence[Deployment]) -> str:
    """LiteLLM's file: equal names share the load, whoever has least to do is asked, and who fails rests for a while."""
    models = [
        {
            "model_name": one.model,
            "litellm_params": {"model": f"openai/{one.model}", "api_base": one.base_url, "api_key": "none"},
            "model_info": {"id": f"{one.device}/{one.model}"},
        }
        for one in deployments
    ]
    router = {"routing_strategy": "least-busy", "num_retries": 5, "allowed_fails": 0, "cooldown_time": 2}
    general = {"master_key": "os.environ/LITELLM_MASTER_KEY"}
    settings = {"model_list": models, "router_settings": router | {"retry_after": 0}, "general_settings": general}
    return json.dumps(settings, indent=2) + "\n"


def find_litellm(named: str | None) -> Path:
    """The command: the one that is named, one installed beside us (extra `gateway`), or one on the path.

    Raises:
        ConfigError: there is none.
    """
    beside = Path(sys.executable).with_name("litellm")
    found = named or (str(beside) if beside.exists() else shutil.which("litellm"))
    if found is None or not Path(found).is_file():
        raise ConfigError(
            "LiteLLM's proxy is not installed; get it with: pip install 'lantern-appliance[gateway]', or into an "
            "environment of its own with: uv tool install 'litellm[proxy]', and name it with --litellm."
        )
    return Path(found)


class LiteLLM:
    """One process with one configuration, on a port of its own on loopback."""

    def __init__(self, command: Path, file: Path, *, master_key: str, port: int) -> None:
        self._command = [str(command), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("LANTERN_")}
        self._environment |= _QUIET | {"LITELLM_MASTER_KEY": master_key}
        self._process: asyncio.subprocess.Process | None = None
        self.port = port

    async def start(self, *, timeout_s: float = 120.0) -> None:
        """Return when it answers.

        Raises:
            GatewayError: it ends, or does not answer in time.
        """
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, env=self._environment
        )
        try:
            async with asyncio.timeout(timeout_s), aiohttp.ClientSession() as session:
                while not await _is_alive(session, self.port):
                    if self._process.returncode is not None:
                        raise GatewayError(f"LiteLLM ended with {self._process.returncode} before it could serve.")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise GatewayError(f"LiteLLM does not answer within {timeout_s:g} s.") from None

    async def ended(self) -> int:
        """Wait for its end, which it should not come to by itself."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self, *, grace_s: float = 30.0) -> None:
        """Let it finish what it does, then end it."""
        if (process := self._process) is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            process.kill()
            await process.wait()


class Front:
    """The port that clients see; connections go to whoever is behind it at the time."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._behind: int | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port in use."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def lead_to(self, port: int) -> None:
        """New connections go there; the others stay where they are."""
        self._behind = port

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self._port)
        except OSError as err:
            raise ConfigError(f"{self._host}:{self._port} cannot be used: {err.strerror or err}.") from err
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with contextlib.suppress(OSError):
            if self._behind is not None:
                there = await asyncio.open_connection("127.0.0.1", self._behind)
                await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
        writer.close()


class Supervisor:
    """Keeps one healthy process with the newest configuration behind the front."""

    def __init__(self, command: Path, folder: Path, front: Front, *, master_key: str) -> None:
        self._command, self._folder, self._front, self._master_key = command, folder, front, master_key
        self._current: LiteLLM | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._file: Path | None = None
        self._num_started = 0

    async def serve(self, deployments: Sequence[Deployment]) -> None:
        """Bring up a process for these, and let the former one go.

        Raises:
            GatewayError: it does not start; the former one stays.
        """
        self._num_started += 1
        file = self._folder / f"litellm-{self._num_started % 2}.yaml"
        await asyncio.to_thread(write_whole, file, configuration(deployments).encode())
        port = await asyncio.to_thread(_free_port)
        new = LiteLLM(self._command, file, master_key=self._master_key, port=port)
        try:
            await new.start()
        except BaseException:
            await new.stop(grace_s=0.0)
            raise
        self._front.lead_to(port)
        if (old := self._current) is not None:
            task = asyncio.create_task(old.stop())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        self._current = new

    async def ended(self) -> int:
        """Wait for the end of the process that serves now."""
        assert self._current is not None
        return await self._current.ended()

    async def close(self) -> None:
        """End all processes."""
        if self._current is not None:
            await self._current.stop(grace_s=10.0)
        await asyncio.gather(*self._retiring)


async def _is_alive(session: aiohttp.ClientSession, port: int) -> bool:
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with session.get(f"http://127.0.0.1:{port}/health/liveliness") as response:
            return response.status == 200
    return False


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def _free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port: int = probe.getsockname()[1]
    return port
