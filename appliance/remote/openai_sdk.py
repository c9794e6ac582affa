"""OpenAI's own SDK, pointed at a device: base URL, trust and key are set, and nothing had to be typed in.

The package `openai` is optional (extra `client`). Its HTTP client takes our TLS context, which ends the handshake with
every certificate but the device's, follows no redirect and uses no proxy: the key goes to the device or nowhere.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from appliance.errors import ConfigError
from appliance.remote.pinned_tls import PinnedContext
from appliance.remote.target import Target, target_named

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI


def openai_client(
    *,
    name: str | None = None,
    model: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 3.0,
    **options: Any,
) -> OpenAI:
    """Find a device and make an `openai.OpenAI` for it; the choice and its reason are logged.

    Args:
        name: the device's name, host name or id; without one the first by what we know, state and name.
        model: only a device that serves this model.
        api_key: instead of the one in `LANTERN_API_KEY` or the platform's keyring.
        timeout_s: how long to search at most.
        options: what else the SDK's client takes, as `max_retries`.

    Raises:
        DiscoveryError: nothing was found, or nothing that fits.
        TrustError: it is not the device that it says it is; nothing was sent to it.
        ConfigError: the SDK is not installed, or the key is none.
    """
    sdk = _sdk()
    target = _run(name, model=model, api_key=api_key, timeout_s=timeout_s)
    common = _common(sdk, target, options.pop("default_headers", {}))
    client: OpenAI = sdk.OpenAI(
        **common, http_client=sdk.DefaultHttpxClient(**_transport(target, _without_key)), **options
    )
    return client


async def async_openai_client(
    *,
    name: str | None = None,
    model: str | None = None,
    api_key: str | None = None,
    timeout_s: float = 3.0,
    **options: Any,
) -> AsyncOpenAI:
    """Find a device as `openai_client` does, from within an event loop: an `openai.AsyncOpenAI`."""
    target = await target_named(name, model=model, key=api_key, timeout_s=timeout_s)

    def make() -> AsyncOpenAI:
        sdk = _sdk()
        common = _common(sdk, target, options.pop("default_headers", {}))
        http = sdk.DefaultAsyncHttpxClient(**_transport(target, _async_without_key))
        client: AsyncOpenAI = sdk.AsyncOpenAI(**common, http_client=http, **options)
        return client

    return await asyncio.to_thread(make)  # the SDK reads files when it is first used


def _common(sdk: ModuleType, target: Target, headers: Mapping[str, object]) -> dict[str, Any]:
    """Return the client's common options; the device sees no key, organization or project meant for OpenAI's cloud."""
    unsaid = ["OpenAI-Organization", "OpenAI-Project"]
    return {
        "base_url": target.base_url,
        "api_key": target.key or "none",  # the SDK refuses to be without; see _without_key
        "default_headers": dict.fromkeys(unsaid, sdk.Omit()) | dict(headers),
    }


def _without_key(request: Any) -> None:
    del request.headers["Authorization"]


async def _async_without_key(request: Any) -> None:
    _without_key(request)


def _transport(target: Target, hook: object) -> dict[str, Any]:
    trust = {} if target.pin is None else {"verify": PinnedContext(target.pin)}
    return {
        "follow_redirects": False,
        "trust_env": False,
        "event_hooks": {"request": [hook] * (target.key is None)},
        **trust,
    }


def _run(name: str | None, *, model: str | None, api_key: str | None, timeout_s: float) -> Target:
    """Search in a loop of our own, on a thread of its own where the caller's has one already, as in a notebook."""

    def search() -> Target:
        return asyncio.run(target_named(name, model=model, key=api_key, timeout_s=timeout_s))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return search()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(search).result()


def _sdk() -> ModuleType:
    try:
        import openai
    except ImportError as err:
        raise ConfigError("OpenAI's SDK is not installed; get it with: pip install openai") from err
    return openai
