"""Routes are declared once, and what is not declared is not served."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from appliance.home import Home
from appliance.server.app import ROUTES
from appliance.server.http.routing import Access, declared
from appliance.service.composition import compose
from tests.abuse.bare_server import bare_server
from tests.conftest import a_config


async def _reached(_request: web.Request) -> web.Response:
    return web.json_response({"reached": True})


async def _status(app: web.Application, path: str) -> int:
    async with TestServer(app) as server, ClientSession() as session, session.get(server.make_url(path)) as answer:
        return answer.status


@pytest.mark.parametrize("path", ["/added", "/admin/added"])
def test_a_route_that_was_not_declared_is_a_404_even_if_the_router_has_it(tmp_path: Path, path: str) -> None:
    parts = compose(a_config(), Home(tmp_path))
    parts.endpoints.close()
    assert declared(parts.app) == ROUTES
    parts.app.router.add_get(path, _reached)
    assert asyncio.run(_status(parts.app, path)) == 404


def test_everything_below_admin_needs_an_administrator_and_nothing_else_does() -> None:
    below = {route.template: route.access for route in ROUTES if route.template.startswith("/admin")}
    assert set(below.values()) == {Access.ADMINISTRATION, Access.CLAIM}
    elsewhere = {route.access for route in ROUTES if route.template not in below}
    assert elsewhere == {Access.OPEN, Access.INFERENCE}
    assert [route.template for route in ROUTES if route.access is Access.OPEN] == [
        *("/health", "/identity", "/", "/console/{name}")
    ]


def test_no_two_routes_share_a_method_and_a_path() -> None:
    assert len({(route.method, route.template) for route in ROUTES}) == len(ROUTES)


def test_a_request_in_another_spelling_is_held_to_the_same_declaration(tmp_path: Path) -> None:
    with bare_server(tmp_path) as server:
        for path in ("/admin/keys", "/%61dmin/keys", "/admin/%6beys"):
            assert server.get(path)[0] == 401
