"""Routes of a FastAPI application for one object.

FastAPI makes of an endpoint's signature what it parses and documents, when a route is made; for a method that has
made ``self`` a query parameter. It makes all of this anew when a router is included in another. So a route is copied
with the bound method as its endpoint, put on a router, and that is included: FastAPI's own way to make a route of a
route, whatever it consists of in this version. The including router is an empty one: the application's would add its
dependencies, tags and responses again, which its routes have already.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute, Route

from salver.serve.asgi.class_routes import ClassRoutes


class FastAPIRoutes(ClassRoutes):
    """Makes the routes that ``served``, a copy of ``app``, has for ``instance``."""

    def __init__(self, instance: object, app: FastAPI, served: FastAPI) -> None:
        super().__init__(instance)
        self._served = served
        self._docs = _documentation_routes(served)
        _renew_openapi(app, served)

    def serve(self, routes: Iterable[BaseRoute]) -> list[BaseRoute]:
        """As in the base class; routes to be made anew are included, neighbours together."""
        pairs = [(route, made) for route in routes if (made := self.serve_one(route)) is not None]
        result: list[BaseRoute] = []
        for incomplete, group in groupby(pairs, key=_is_incomplete):
            made = [pair[1] for pair in group]
            result += self._included(made) if incomplete else made
        return result

    def serve_one(self, route: BaseRoute) -> BaseRoute | None:
        """As in the base class; an ``APIRoute`` with a bound method is complete when it has been included."""
        if isinstance(route, APIRoute | APIWebSocketRoute):
            return self._with_bound_method(route)
        if hasattr(route, "original_router") and hasattr(route, "include_context"):
            return self._included_router(route)
        fresh = self._docs.get(getattr(route, "path", ""))
        if fresh is not None and _code(fresh) == _code(route):
            return fresh
        return super().serve_one(route)

    def _with_bound_method(self, route: APIRoute | APIWebSocketRoute) -> BaseRoute | None:
        bound = self.methods.bound(route.endpoint)
        if bound is None or bound is route.endpoint:
            return route if bound is not None else None
        copied = copy.copy(route)
        copied.endpoint = bound
        return copied

    def _included(self, routes: list[BaseRoute]) -> list[BaseRoute]:
        inner = APIRouter()
        inner.routes.extend(routes)
        outer = APIRouter(dependency_overrides_provider=self._served)
        outer.include_router(inner)
        return outer.routes

    def _included_router(self, included: Any) -> BaseRoute:
        """A router that FastAPI keeps as it was included (older versions copy its routes), with its routes bound."""
        original: APIRouter = included.original_router
        routes = [made for route in original.routes if (made := self.serve_one(route)) is not None]
        if len(routes) == len(original.routes) and all(map(_is_same, routes, original.routes)):
            return included
        router = copy.copy(original)
        router.routes = routes
        return type(included)(original_router=router, include_context=included.include_context)


def _is_incomplete(pair: tuple[BaseRoute, BaseRoute]) -> bool:
    route, made = pair
    return made is not route and isinstance(made, APIRoute | APIWebSocketRoute)


def _is_same(one: object, other: object) -> bool:
    return one is other


def _documentation_routes(served: FastAPI) -> dict[str, Route]:
    """Fresh ones, by path: those of the original application show that one's schema."""
    served.router = APIRouter()  # until it gets its own
    FastAPI.setup(served)
    return {route.path: route for route in served.routes if isinstance(route, Route)}


def _code(route: Any) -> tuple[str, str]:
    endpoint = getattr(route, "endpoint", None)
    return getattr(endpoint, "__module__", ""), getattr(endpoint, "__qualname__", "")


def _renew_openapi(app: FastAPI, served: FastAPI) -> None:
    """Let ``served`` make its own schema, also where the user has replaced ``app.openapi``.

    Such a function describes ``app.routes`` and keeps the result in ``app.openapi_schema``, as FastAPI documents it;
    for the moment of its call these are those of ``served``.
    """
    served.openapi_schema = None
    if "openapi" not in vars(app):
        return
    custom = app.openapi

    def openapi() -> dict[str, Any]:
        if served.openapi_schema is None:
            router, schema = app.router, app.openapi_schema
            app.router, app.openapi_schema = served.router, None
            try:
                served.openapi_schema = custom()
            finally:
                app.router, app.openapi_schema = router, schema
        return served.openapi_schema

    vars(served)["openapi"] = openapi
