"""``@serve.ingress``: HTTP for a class by an ASGI application, FastAPI's in particular.

The class is marked where it is and returned, not wrapped: it can be inherited from, and is pickled by reference where
it can be imported. The mark is a method, ``__serve_build_asgi_app__``, which a replica calls when it has constructed
the object; nothing is made of the application before. So what a module does to its application after the class
(routes, middleware, routers) counts.

What it builds from a FastAPI or Starlette application is a copy with routes of its own, for the object's methods are
bound in them (``served_app``). Any other ASGI application is served as it is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

from salver.errors import ConfigurationError

if TYPE_CHECKING:
    from salver.data.replica.lifespan import ASGIApp

UserClass = TypeVar("UserClass", bound=type)
Build = Callable[[Any], object]
"""Gives the application for an object of the user's."""


class Decorate(Protocol):
    """What ``ingress`` returns: give it a class, or nothing to be given one."""

    @overload
    def __call__(self, user_class: UserClass, /) -> UserClass: ...
    @overload
    def __call__(self) -> type[Any]: ...


def ingress(app: ASGIApp | Callable[[], ASGIApp] | None) -> Decorate:
    """Serve HTTP and WebSocket requests to a deployment's class with ``app``; put it below ``@serve.deployment``.

    Methods that are routes of a FastAPI application (``@app.get("/")``) get ``self``, and stay ordinary methods for
    handles. Startup, shutdown and lifespan of the application run in each replica; a startup that fails is a
    constructor that fails.

    For an application of functions only, ``serve.deployment(serve.ingress(app)())`` needs no class: the one that it
    makes takes any arguments, so that other applications can be bound to it.

    Args:
        app: a FastAPI application; any other ASGI application; a function that is called without arguments in each
            replica and makes one; or None for a class that has a method ``__serve_build_asgi_app__(self)`` for this.

    Raises:
        ConfigurationError: not applied to a class, the class has ``__call__``, or ``app`` is none of these (a
            ``ValueError``).
    """
    build = _check_app(app)

    def decorate(user_class: type[Any] | None = None, /) -> type[Any]:
        if user_class is None:
            user_class = _class_for_functions()
        _check_class(user_class)
        make = build if build is not None else _own_build_method(user_class)

        def __serve_build_asgi_app__(self: object) -> ASGIApp:  # noqa: N807 - the name is part of the interface
            return for_replica(make(self), self)

        marked = cast(Any, user_class)
        marked.__serve_is_asgi_ingress__ = True
        marked.__serve_build_asgi_app__ = __serve_build_asgi_app__
        return user_class

    return cast(Decorate, decorate)


def _class_for_functions() -> type[Any]:
    """A new class each time, since it is going to be marked. Its name becomes the deployment's."""

    class ASGIIngressDeployment:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.args = args
            self.kwargs = kwargs

    return ASGIIngressDeployment


def for_replica(app: object, instance: object) -> ASGIApp:
    """What to serve for ``instance``: ``app`` with its methods bound, when it is of a kind that has routes."""
    if not callable(app):
        raise ConfigurationError(f"@serve.ingress: {app!r} is no ASGI application")
    if is_starlette(app):
        return import_module("salver.serve.asgi.served_app").served_app(app, instance)
    return cast("ASGIApp", app)


def is_starlette(app: object) -> bool:
    """Whether it is a Starlette application, as FastAPI's are; imports nothing to find out."""
    module = sys.modules.get("starlette.applications")
    return module is not None and isinstance(app, module.Starlette)


def _check_app(app: object) -> Build | None:
    """How to get the application from what was given; None when the class itself knows."""
    if app is None:
        return None
    if not callable(app) or inspect.isclass(app):
        raise ConfigurationError(
            f"@serve.ingress takes an ASGI application or a function that makes one, not {app!r}; "
            "use it as @serve.ingress(app)"
        )
    if is_starlette(app):
        import_module("salver.serve.asgi.app_pickling").make_apps_picklable()
        return lambda _: app
    return (lambda _: app()) if _is_builder(app) else (lambda _: app)


def _is_builder(app: Callable[..., object]) -> bool:
    """Whether it can be called without arguments: an application has three."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):  # written in C: no builder of anyone's
        return False
    return all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in parameters)


def _check_class(user_class: object) -> None:
    if not inspect.isclass(user_class):
        raise ConfigurationError(
            f"@serve.ingress must be used with a class, not with {user_class!r}; "
            "with @serve.deployment, it goes below: directly above the class"
        )
    if any("__call__" in vars(base) for base in user_class.__mro__):
        raise ConfigurationError("Classes passed to @serve.ingress may not have __call__ method.")


def _own_build_method(user_class: type) -> Build:
    build = getattr(user_class, "__serve_build_asgi_app__", None)
    if build is None:
        raise ConfigurationError(
            f"@serve.ingress(None): class {user_class.__qualname__} must have a method "
            "__serve_build_asgi_app__(self) that returns an ASGI application"
        )
    return cast(Build, build)
