"""Routes of a Starlette application for one object: methods of its class bound, those of other classes left out."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

from starlette.routing import BaseRoute, Route, WebSocketRoute

from salver.serve.asgi.class_methods import ClassMethods

_AnyRoute = TypeVar("_AnyRoute", Route, WebSocketRoute)


class ClassRoutes:
    """Makes the routes that are served for ``instance``."""

    def __init__(self, instance: object) -> None:
        self.methods = ClassMethods(instance)

    def serve(self, routes: Iterable[BaseRoute]) -> list[BaseRoute]:
        """``routes`` in their order; those without anything to bind are the same objects."""
        return [served for route in routes if (served := self.serve_one(route)) is not None]

    def serve_one(self, route: BaseRoute) -> BaseRoute | None:
        """``route`` as it is served for the object; None when it is another class's."""
        if type(route) is not Route and type(route) is not WebSocketRoute:
            return route
        bound = self.methods.bound(route.endpoint)
        if bound is None or bound is route.endpoint:
            return route if bound is not None else None
        if isinstance(route, Route):
            methods = None if route.methods is None else list(route.methods)
            return _rebuilt(route, Route(route.path, bound, methods=methods))
        return _rebuilt(route, WebSocketRoute(route.path, bound))


def _rebuilt(route: _AnyRoute, fresh: _AnyRoute) -> _AnyRoute:
    """``route`` with the endpoint of ``fresh``, behind its own middleware."""
    rebuilt = copy.copy(route)
    rebuilt.endpoint = fresh.endpoint
    rebuilt.app = around(route.app, fresh.app)
    return rebuilt


def around(wrapped: Any, innermost: Any) -> Any:
    """Middleware as in ``wrapped`` (copies, by the convention that each has what it wraps as ``app``) around this."""
    inner = getattr(wrapped, "app", None)
    if inner is None:
        return innermost
    copied = copy.copy(wrapped)
    copied.app = around(inner, innermost)
    return copied
