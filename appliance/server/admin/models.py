"""GET /admin/models, DELETE /admin/models/NAME, POST /admin/models/NAME/rollback."""

from __future__ import annotations

import asyncio
import shutil
from functools import partial
from typing import Any

from aiohttp import web

from appliance.host.memory import available_bytes
from appliance.server.admin.administration import Administration, administration_of, refusals

ROUTES = web.RouteTableDef()


@ROUTES.get("/admin/models")
async def list_models(request: web.Request) -> web.Response:
    """Every installed model with its versions, and the room that is left."""
    return web.json_response(await overview(administration_of(request)))


@ROUTES.delete("/admin/models/{name}")
async def remove_model(request: web.Request) -> web.Response:
    """Uninstall every version; requests that run with it finish."""
    administration = administration_of(request)
    with refusals():
        await administration.change(partial(administration.installer.remove, request.match_info["name"]))
    return web.json_response(await overview(administration))


@ROUTES.post("/admin/models/{name}/rollback")
async def roll_back(request: web.Request) -> web.Response:
    """Let the version before this one serve."""
    administration = administration_of(request)
    with refusals():
        await administration.change(partial(administration.installer.rollback, request.match_info["name"]))
    return web.json_response(await overview(administration))


async def overview(administration: Administration) -> dict[str, Any]:
    """What is installed, served and free."""
    pool = administration.pool
    installed = await asyncio.to_thread(administration.installer.list)
    loaded = {model.bundle.digest for model in pool.loaded()}
    aliases: dict[str, list[str]] = {}
    for alias, name in sorted(pool.aliases.items()):
        aliases.setdefault(name, []).append(alias)
    root = administration.installer.store.root
    free = await asyncio.to_thread(lambda: shutil.disk_usage(root).free if root.is_dir() else None)
    return {
        "models": [
            {
                **model.to_json(),
                "loaded": model.digest in loaded,
                "aliases": aliases.get(model.name, []),
                "problem": model.problem or pool.damaged.get(model.name),
            }
            for model in installed
        ],
        "storage": {"free_bytes": free},
        "memory": {"free_bytes": await asyncio.to_thread(available_bytes), "models_bytes": pool.reserved_bytes},
    }
