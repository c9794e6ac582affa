"""The administration of a device: everything below /admin, for administration keys only."""

from aiohttp import web

from appliance.server.admin import aliases, claim, keys, models, safe_mode, trust, update, uploads

ROUTES: list[web.RouteDef] = [
    route
    for module in (aliases, claim, keys, models, safe_mode, trust, update, uploads)
    for route in module.ROUTES
    if isinstance(route, web.RouteDef)
]

__all__ = ["ROUTES"]
