"""A FastAPI or Starlette application as one replica serves it: a copy, with the methods of the replica's object bound.

The application that the user wrote is not changed. Several classes may share it, and so may several replicas of one
process in tests. The copy is shallow, except for what must differ: routes and router, the middleware stack, which is
built around the router, the handlers of exceptions, and FastAPI's schema and documentation routes.

``state`` is shared with the original, since code reaches it both ways (``app.state`` of a global, ``request.app.state``).
Only where another copy of the same application lives in this process does a new one get a state of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast
from weakref import ReferenceType, WeakKeyDictionary, ref

from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Router

from salver.data.hosted_app import LeftToIngress
from salver.errors import BackPressureError, DeploymentUnavailableError, RequestTimeoutError, ServeException
from salver.serve.class_routes import ClassRoutes, around
from salver.serve.fastapi_routes import FastAPIRoutes, is_fastapi

_ERRORS_OF_THE_INGRESS = (BackPressureError, DeploymentUnavailableError, RequestTimeoutError)

_state_users: WeakKeyDictionary[Starlette, ReferenceType[Starlette]] = WeakKeyDictionary()
"""Applications, and the copy of each that uses its state."""


def served_app(app: Starlette, instance: object) -> Starlette:
    """A copy of ``app`` in which routes that are methods of the class of ``instance`` are bound to it.

    Routes that are methods of other classes are left out.
    """
    served = copy.copy(app)
    served.state = _state_for(served, app)
    served.user_middleware = list(app.user_middleware)
    served.exception_handlers = _with_errors_of_the_ingress(app.exception_handlers)
    served.middleware_stack = None
    if is_fastapi(app):
        routes = FastAPIRoutes(instance, app, served)
        served.router = _router_copy(app.router, routes.serve(app.routes))
        routes.renew_openapi()
    else:
        served.router = _router_copy(app.router, ClassRoutes(instance).serve(app.routes))
    return served


def _router_copy(router: Router, routes: list[BaseRoute]) -> Any:
    copied = copy.copy(router)
    copied.routes = routes
    copied.middleware_stack = around(router.middleware_stack, copied.app)  # it calls the original's routes else
    return copied


def _state_for(served: Starlette, app: Starlette) -> State:
    user = _state_users.get(app)
    if user is not None and user() is not None:
        return copy.copy(app.state)
    _state_users[app] = ref(served)
    return app.state


def _with_errors_of_the_ingress(handlers: Any) -> dict[Any, Any]:
    """``handlers``, and ours for the errors that no handler of the user's is for."""
    return {error: _leave_to_ingress for error in _ERRORS_OF_THE_INGRESS if not _is_handled(error, handlers)} | handlers


def _is_handled(error: type[Exception], handlers: Any) -> bool:
    return any(base in handlers for base in error.__mro__ if base is not Exception)


async def _leave_to_ingress(_: HTTPConnection, error: Exception) -> None:
    raise LeftToIngress(error)
