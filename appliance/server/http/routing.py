"""Routes, each declared once at its handler: its callers, what it takes, what it answers.

The checks in front of a handler, /openapi.json, 405, 100-continue, the log and the metrics read this declaration. A
path that nobody declared is a 404, even if aiohttp's router knows it.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Required, TypeVar

from aiohttp import hdrs, web
from typing_extensions import TypedDict, Unpack

from appliance.server.http.expectation import refuse_other_expectations
from appliance.server.http.wire import Wire

JSON_TYPE = "application/json"
PIECE_TYPE = "application/octet-stream"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_H = TypeVar("_H", bound=Handler)


class Access(enum.Enum):
    """Callers that a route admits."""

    OPEN = "everybody"
    INFERENCE = "any key; everybody if the server has no keys"
    ADMINISTRATION = "a key for administration, always"
    CLAIM = "everybody while the device can be claimed, afterwards a key for administration"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the path, the query or the headers, as /openapi.json describes it."""

    name: str
    place: str
    description: str
    is_required: bool = True
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A declared route.

    `path` may give a part a pattern (`{model:.+}`). `request` is the model of a JSON body, `answer` the TypedDict of
    the answer, `event` that of one event if the answer may be a stream. Without an `operation` (its id) the route is
    left out of /openapi.json. `is_polled` marks what monitors ask for all day: its successes are logged at DEBUG.
    `is_page` marks a page for people, to which links of other sites may lead.
    """

    method: str
    path: str
    handler: Handler
    access: Access
    operation: str | None = None
    summary: str = ""
    request: type[Wire] | None = None
    body_type: str = JSON_TYPE
    answer: type[object] | None = None
    event: type[object] | None = None
    statuses: tuple[HTTPStatus, ...] = (HTTPStatus.OK,)
    parameters: tuple[Parameter, ...] = ()
    is_polled: bool = False
    is_page: bool = False

    @property
    def template(self) -> str:
        """The path without patterns, as /openapi.json and the metrics name it."""
        return _template(self.path)


class Declaration(TypedDict, total=False):
    """The part of a route that its decorator states; the fields are those of Route."""

    access: Required[Access]
    operation: str
    summary: str
    request: type[Wire]
    body_type: str
    answer: type[object]
    event: type[object]
    statuses: tuple[HTTPStatus, ...]
    parameters: tuple[Parameter, ...]
    is_polled: bool
    is_page: bool


class Routes:
    """The routes of one module, declared by decorators."""

    def __init__(self) -> None:
        self._routes: list[Route] = []

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def get(self, path: str, **declaration: Unpack[Declaration]) -> Callable[[_H], _H]:
        """Declare a GET; HEAD comes with it."""
        return self._declare(hdrs.METH_GET, path, declaration)

    def post(self, path: str, **declaration: Unpack[Declaration]) -> Callable[[_H], _H]:
        """Declare a POST."""
        return self._declare(hdrs.METH_POST, path, declaration)

    def put(self, path: str, **declaration: Unpack[Declaration]) -> Callable[[_H], _H]:
        """Declare a PUT."""
        return self._declare(hdrs.METH_PUT, path, declaration)

    def patch(self, path: str, **declaration: Unpack[Declaration]) -> Callable[[_H], _H]:
        """Declare a PATCH."""
        return self._declare(hdrs.METH_PATCH, path, declaration)

    def delete(self, path: str, **declaration: Unpack[Declaration]) -> Callable[[_H], _H]:
        """Declare a DELETE."""
        return self._declare(hdrs.METH_DELETE, path, declaration)

    def _declare(self, method: str, path: str, declaration: Declaration) -> Callable[[_H], _H]:
        def declare(handler: _H) -> _H:
            self._routes.append(Route(method, path, handler, **declaration))
            return handler

        return declare


_DECLARED: web.AppKey[Mapping[web.AbstractRoute, Route]] = web.AppKey("declared", Mapping[web.AbstractRoute, Route])


def register(app: web.Application, routes: Iterable[Route]) -> None:
    """Let the application serve these routes and no others."""
    declared: dict[web.AbstractRoute, Route] = {}
    for route in routes:
        resource = app.router.add_resource(route.path)
        methods = (hdrs.METH_HEAD, hdrs.METH_GET) if route.method == hdrs.METH_GET else (route.method,)
        for method in methods:
            served = resource.add_route(method, route.handler, expect_handler=refuse_other_expectations)
            declared[served] = route
    app[_DECLARED] = declared


def declared(app: web.Application) -> tuple[Route, ...]:
    """Return the routes that the application serves."""
    return tuple(dict.fromkeys(app[_DECLARED].values()))


def route_of(request: web.Request) -> Route | None:
    """Return the declaration of the route that a request reached; None for a path that nobody declared."""
    return request.app[_DECLARED].get(request.match_info.route)


def hidden_methods(app: web.Application, path: str) -> set[str]:
    """Return the methods of a documented path that /openapi.json leaves out, since the path only refuses them."""
    routes = [route for route in declared(app) if route.template == path]
    if all(route.operation is None for route in routes):
        return set()
    hidden = {route.method for route in routes if route.operation is None}
    return hidden | ({hdrs.METH_HEAD} if hdrs.METH_GET in hidden else set())


def in_path(name: str, description: str) -> Parameter:
    """Describe a part of the path."""
    return Parameter(name, "path", description)


def in_query(name: str, description: str, pattern: str | None = None) -> Parameter:
    """Describe a parameter of the query, which may be left out."""
    return Parameter(name, "query", description, is_required=False, pattern=pattern)


def in_header(name: str, description: str, pattern: str, *, is_required: bool) -> Parameter:
    """Describe a header."""
    return Parameter(name, "header", description, is_required, pattern)


@functools.cache
def _template(path: str) -> str:
    return re.sub(r":[^}]*", "", path)
