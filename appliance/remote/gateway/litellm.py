"""LiteLLM's proxy as a program of ours: its configuration and its process.

A new configuration is a new process beside the old one: the front leads to it once it is healthy, and the old one ends
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

import aiohttp

from appliance.errors import ConfigError, LanternError
from appliance.host.files import write_atomically
from appliance.remote.gateway.fleet import Deployment
from appliance.remote.gateway.front import Front
from appliance.remote.gateway.tether import tethered

_LOGGER = logging.getLogger(__name__)

_DRAIN_S = 600.0
_POLL_S = 0.2
_TOKEN = "LANTERN_RELAY_TOKEN"  # noqa: S105
_QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "DISABLE_ADMIN_UI": "True"}


class GatewayError(LanternError):
    """LiteLLM does not start."""

    code = "gateway_error"


def configuration(deployments: Sequence[Deployment]) -> str:
    """Return LiteLLM's file: equal names share the load, the least busy is asked, a failing one rests for a while."""
    models = [
        {
            "model_name": one.model,
            "litellm_params": {
                "model": f"openai/{one.model}",
                "api_base": one.base_url,
                "api_key": f"os.environ/{_TOKEN}",
            },
            "model_info": {"id": f"{one.device}/{one.model}"},
        }
        for one in deployments
    ]
    router = {"routing_strategy": "least-busy", "num_retries": 5, "allowed_fails": 0, "cooldown_time": 2}
    general = {"master_key": "os.environ/LITELLM_MASTER_KEY"}
    settings = {"model_list": models, "router_settings": router | {"retry_after": 0}, "general_settings": general}
    return json.dumps(settings, indent=2) + "\n"


def find_litellm(named: str | None) -> Path:
    """Find the command: the named one, one installed beside us (extra `gateway`), or one on the path.

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

    def __init__(self, command: Path, file: Path, *, master_key: str, token: str, port: int) -> None:
        self._command = [str(command), "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("LANTERN_")}
        self._environment |= _QUIET | {"LITELLM_MASTER_KEY": master_key, _TOKEN: token}
        self._process: asyncio.subprocess.Process | None = None
        self.port = port

    async def start(self, *, timeout_s: float = 300.0) -> None:
        """Return when it answers.

        Raises:
            GatewayError: it ends, or does not answer in time.
        """
        self._process = await asyncio.create_subprocess_exec(
            *tethered(self._command), stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, env=self._environment
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


class Supervisor:
    """Keeps one healthy process with the newest configuration behind the front."""

    def __init__(self, command: Path, folder: Path, front: Front, *, master_key: str, token: str) -> None:
        self._command, self._folder, self._front = command, folder, front
        self._master_key, self._token = master_key, token
        self._current: LiteLLM | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._old: list[LiteLLM] = []
        self._num_started = 0

    async def serve(self, deployments: Sequence[Deployment]) -> None:
        """Bring up a process for these, and let the former one go.

        Raises:
            GatewayError: it does not start; the former one stays.
        """
        self._num_started += 1
        file = self._folder / f"litellm-{self._num_started % 2}.yaml"
        await asyncio.to_thread(write_atomically, file, configuration(deployments).encode())
        port = await asyncio.to_thread(_free_port)
        new = LiteLLM(self._command, file, master_key=self._master_key, token=self._token, port=port)
        try:
            await new.start()
        except BaseException:
            await new.stop(grace_s=0.0)
            raise
        self._front.route_to(port)
        if (old := self._current) is not None:
            self._old.append(old)
            task = asyncio.create_task(self._retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        self._current = new

    async def _retire(self, old: LiteLLM) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._front.drained(old.port), _DRAIN_S)
        await old.stop()
        self._old.remove(old)

    async def ended(self) -> int:
        """Wait for the end of the process that serves now."""
        assert self._current is not None
        return await self._current.ended()

    async def close(self) -> None:
        """End all processes."""
        if self._current is not None:
            await self._current.stop(grace_s=10.0)
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        for old in self._old:
            await old.stop(grace_s=1.0)


async def _is_alive(session: aiohttp.ClientSession, port: int) -> bool:
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with session.get(f"http://127.0.0.1:{port}/health/liveliness") as response:
            return response.status == 200
    return False


def _free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port: int = probe.getsockname()[1]
    return port
