"""/admin/models: the installed models, each loaded, unloaded, rolled back and removed, and the reports of bundles.

A report is a page of a bundle's author: it is sent as a file to keep, and may run nothing if a browser shows it.
"""

from __future__ import annotations

from aiohttp import hdrs, web

from appliance.errors import UnavailableError
from appliance.install.overview import Overview
from appliance.server.admin.access import administration_of, refusals
from appliance.server.context import CONTEXT
from appliance.server.http.routing import Access, Routes, in_path

ROUTES = Routes()

_REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_NAME = in_path("name", "The name of an installed model.")


@ROUTES.get(
    "/admin/models",
    access=Access.ADMINISTRATION,
    operation="listInstalledModels",
    summary="What is installed and free",
    answer=Overview,
)
async def list_models(request: web.Request) -> web.Response:
    """List every installed model with its versions, and the free space."""
    return web.json_response(await administration_of(request).overview())


@ROUTES.delete(
    "/admin/models/{name}",
    access=Access.ADMINISTRATION,
    operation="removeModel",
    summary="Uninstall a model",
    answer=Overview,
    parameters=(_NAME,),
)
async def remove_model(request: web.Request) -> web.Response:
    """Uninstall every version; requests that use the model finish."""
    administration = administration_of(request)
    with refusals():
        await administration.remove(request.match_info["name"])
    return web.json_response(await administration.overview())


@ROUTES.post(
    "/admin/models/{name}/rollback",
    access=Access.ADMINISTRATION,
    operation="rollBackModel",
    summary="Let the version before serve",
    answer=Overview,
    parameters=(_NAME,),
)
async def roll_back(request: web.Request) -> web.Response:
    """Serve the version before this one."""
    administration = administration_of(request)
    with refusals():
        await administration.rollback(request.match_info["name"])
    return web.json_response(await administration.overview())


@ROUTES.post(
    "/admin/models/{name}/load",
    access=Access.ADMINISTRATION,
    operation="loadModel",
    summary="Load a model into memory",
    answer=Overview,
    parameters=(_NAME,),
)
async def load_model(request: web.Request) -> web.Response:
    """Load a model; idle ones are unloaded if it needs their memory."""
    administration = administration_of(request)
    if request.app[CONTEXT].is_safe_mode:
        raise UnavailableError("No model is loaded in safe mode; leave it first.")
    with refusals():
        await administration.load(request.match_info["name"])
    return web.json_response(await administration.overview())


@ROUTES.post(
    "/admin/models/{name}/unload",
    access=Access.ADMINISTRATION,
    operation="unloadModel",
    summary="Free the memory of a model",
    answer=Overview,
    parameters=(_NAME,),
)
async def unload_model(request: web.Request) -> web.Response:
    """Unload a model that no request uses; the next request loads it again."""
    administration = administration_of(request)
    with refusals():
        await administration.unload(request.match_info["name"])
    return web.json_response(await administration.overview())


@ROUTES.get(
    "/admin/models/{name}/report",
    access=Access.ADMINISTRATION,
    operation="getModelReport",
    summary="The report of a bundle's measurements, as HTML",
    parameters=(_NAME,),
)
async def show_report(request: web.Request) -> web.Response:
    """Return the report that the bundle brought along."""
    name = request.match_info["name"]
    with refusals():
        report = await administration_of(request).report(name)
    headers = {
        hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
        hdrs.CONTENT_DISPOSITION: 'attachment; filename="report.html"',
        "Content-Security-Policy": _REPORT_POLICY,
    }
    return web.Response(body=report, headers=headers)
