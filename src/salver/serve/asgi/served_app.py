"""A FastAPI or Starlette application as one replica serves it: a copy in which the object's methods are bound.

The application that the user wrote is not changed. Several classes may share it, and so may several replicas of one
process in tests. The copy is shallow, except for what must differ: routes and router, the middleware stack, which is
built around the router, the handlers of exceptions, and FastAPI's schema and documentation routes.

``state`` is shared with the original, since code reaches it both ways: as ``app.state`` of a global and as
``request.app.state``. Only where another copy of the same application lives in this process does a new one get a
state of its own.
"""

from __future__ import annotations

import copy
import sys
from importlib import import_module
from typing import Any, cast
from weakref import ReferenceType, WeakKeyDictionary, ref

from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Router

from salver.data.replica.asgi import Scope
from salver.data.replica.hosted_app import leave_to_ingress
from salver.errors import BackPressureError, DeploymentUnavailableError, RequestTimeoutError
from salver.serve.asgi.class_routes import ClassRoutes, around

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
    served.router = _router_copy(app.router, _routes_for(instance, app, served).serve(app.routes))
    return served


def _routes_for(instance: object, app: Starlette, served: Starlette) -> ClassRoutes:
    fastapi = sys.modules.get("fastapi")
    if fastapi is None or not isinstance(app, fastapi.FastAPI):
        return ClassRoutes(instance)
    return import_module("salver.serve.asgi.fastapi_routes").FastAPIRoutes(instance, app, served)


def _router_copy(router: Router, routes: list[BaseRoute]) -> Any:
    copied = copy.copy(router)
    copied.routes = routes
    copied.middleware_stack = around(router.middleware_stack, copied.app)  # it calls the original's routes else
    return copied


def _state_for(served: Starlette, app: Starlette) -> State:
    user = _state_users.get(app)
    if user is not None and user() is not None:
        return State(dict(vars(app.state)["_state"]))  # what its module has put in, and no more of what others do
    _state_users[app] = ref(served)
    return app.state


def _with_errors_of_the_ingress(handlers: Any) -> dict[Any, Any]:
    """``handlers``, and ours for the errors that no handler of the user's is for."""
    return {
        error: _answer_by_ingress for error in _ERRORS_OF_THE_INGRESS if not _is_handled(error, handlers)
    } | handlers


def _is_handled(error: type[Exception], handlers: Any) -> bool:
    return any(base in handlers for base in error.__mro__ if base is not Exception)


async def _answer_by_ingress(connection: HTTPConnection, error: Exception) -> Response | None:
    """The response is for the application's middleware; the client gets the ingress's."""
    leave_to_ingress(cast("Scope", connection.scope), error)
    return PlainTextResponse(str(error), 503) if connection.scope["type"] == "http" else None
