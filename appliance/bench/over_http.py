"""The half of the bench that goes over HTTP: a server of our own or one that runs, alone or in turn with a peer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from appliance.bench.alternation import measure
from appliance.bench.chat_loads import ChatLoads
from appliance.bench.client import OpenAIClient
from appliance.bench.embedding_loads import embedding_loads
from appliance.bench.figures import Figure, Metric
from appliance.bench.loads import Load
from appliance.bench.plan import BenchPlan, Endpoint
from appliance.bench.probe import Target, find_target
from appliance.bench.processes import listening_process, resident_memory, running_server

_CHAT_GROUPS = frozenset({"stream", "streams", "turn", "repeat", "schema"})
_BYTES_PER_MB = 1e6
_READY = Metric("ready", "ready after start", "s", lower_is_better=True)
_RESIDENT = Metric("memory", "resident memory at the end", "MB", lower_is_better=True)
_ANONYMOUS = Metric("memory", "of it anonymous", "MB", lower_is_better=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """One server's figures, in the order of the table."""

    url: str
    chat_model: str | None
    embedding_model: str | None
    figures: tuple[Figure, ...]


async def measure_over_http(plan: BenchPlan, *, on_progress: Callable[[str], None] = lambda _: None) -> list[Measured]:
    """Measure ours, and then theirs if the plan has a peer.

    Raises:
        BenchError: a server cannot be started or reached.
        ModelNotFoundError: a server does not have the model that was named.
    """
    ready_s: list[float] = []
    if plan.endpoint is None and plan.wants("ready"):
        for i in range(plan.repeat - 1):
            on_progress(f"starting the server: run {i + 1} of {plan.repeat}")
            async with running_server(plan.engine) as process:
                ready_s.append(process.ready_s)
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(_connected("theirs", plan.peer))] if plan.peer else []
        on_progress("starting the server")
        targets = [await stack.enter_async_context(_ours(plan, ready_s)), *peers]
        on_progress("asking what the server can do")
        all_figures = await measure(await _loads(plan, targets), targets, repeat=plan.repeat, on_progress=on_progress)
        if plan.wants("memory"):
            for target, figures in zip(targets, all_figures, strict=True):
                figures += await asyncio.to_thread(_memory, target)
    if ready_s and plan.wants("ready"):
        all_figures[0].insert(0, Figure(_READY, tuple(ready_s)))
    return [
        Measured(t.client.base_url, t.chat_model, t.embedding_model, tuple(figures))
        for t, figures in zip(targets, all_figures, strict=True)
    ]


@contextlib.asynccontextmanager
async def _ours(plan: BenchPlan, ready_s: list[float]) -> AsyncIterator[Target]:
    if plan.endpoint is not None:
        async with _connected("ours", plan.endpoint) as target:
            yield target
        return
    async with running_server(plan.engine) as process:
        ready_s.append(process.ready_s)
        endpoint = Endpoint(process.url, None, plan.chat_model, plan.embedding_model)
        async with _connected("ours", endpoint) as target:
            yield target


@contextlib.asynccontextmanager
async def _connected(label: str, endpoint: Endpoint) -> AsyncIterator[Target]:
    async with OpenAIClient(endpoint.url, key=endpoint.key) as client:
        yield await find_target(
            label,
            client,
            chat_model=endpoint.chat_model,
            embedding_model=endpoint.embedding_model,
            pid=await asyncio.to_thread(listening_process, client.base_url),
        )


async def _loads(plan: BenchPlan, targets: list[Target]) -> list[Load]:
    loads: list[Load] = []
    chatting = [t for t in targets if t.chat_model is not None]
    if chatting and _CHAT_GROUPS & set(plan.groups):
        chat = ChatLoads(await chatting[0].token_rate(), plan.num_tokens)
        loads += [chat.one_stream(context) for context in plan.stream_contexts]
        loads += [chat.many_streams(), chat.second_turn(), chat.repeated_text(), chat.schema()]
    loads += embedding_loads()
    return [load for load in loads if plan.wants(load.group)]


def _memory(target: Target) -> list[Figure]:
    held = resident_memory(target.pid) if target.pid is not None else None
    if held is None:
        return [Figure(_RESIDENT, note="not a process of this machine that may be looked at"), Figure(_ANONYMOUS)]
    anonymous = () if held.anonymous_bytes is None else (held.anonymous_bytes / _BYTES_PER_MB,)
    return [Figure(_RESIDENT, (held.resident_bytes / _BYTES_PER_MB,)), Figure(_ANONYMOUS, anonymous)]
