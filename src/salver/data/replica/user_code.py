"""The user's class or function inside a replica: constructed once, then called.

``async def`` runs on the replica's event loop. ``def`` runs in a pool of as many threads as the replica has slots,
with the request's context variables. The constructor runs on the loop's thread, so that libraries that bind to a
thread find it again in ``async def`` methods.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Callable
from functools import partial
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, cast

from salver.data.replica.contained import contained
from salver.data.replica.failure_text import user_traceback
from salver.data.replica.finalizer import finalize
from salver.data.replica.hosted_app import HostedApp
from salver.data.replica.threads import Threads
from salver.errors import ServeException
from salver.wire.payload import load_definition

logger = logging.getLogger("salver.replica")

_GENERATORS = (GeneratorType, AsyncGeneratorType)


class MethodMissing(ServeException):
    """The caller named a method that the user's object does not have."""


class UnexpectedGenerator(ServeException, TypeError):
    """A generator came back from a call that did not ask to stream, or none from one that did."""


class UserCode:
    """One user object and how to call it. Make it with ``construct``."""

    def __init__(self, target: Any, *, is_function: bool, threads: int, name: str) -> None:
        self.target = target
        self._is_function = is_function
        self.name = name
        self._threads = threads
        self._pool = self._new_pool()
        self._methods: dict[str, tuple[Callable[..., Any], bool]] = {}
        self.asgi_app: HostedApp | None = None
        self.http_handler: Callable[..., Any] | None = None
        self.http_handler_is_async = False
        self.http_takes_request = True
        self._find_http_handler()

    @classmethod
    async def construct(cls, definition: bytes, *, threads: int, name: str) -> UserCode:
        """Unpickle the definition and build the user's object; whatever the user's code raises comes out."""
        with contained("the module of the deployment"):
            func_or_class, args, kwargs = load_definition(definition)
        if not isinstance(func_or_class, type):
            return cls(func_or_class, is_function=True, threads=threads, name=name)
        user_class = cast("type[Any]", func_or_class)
        with contained("the constructor"):
            if inspect.iscoroutinefunction(user_class.__init__):
                target = user_class.__new__(user_class, *args, **kwargs)
                await cast(Any, target.__init__(*args, **kwargs))
            else:
                target = user_class(*args, **kwargs)
            build_asgi_app = getattr(target, "__serve_build_asgi_app__", None)
            asgi_app = None if build_asgi_app is None else HostedApp(build_asgi_app(), threads=threads)
        if asgi_app is not None:
            await asgi_app.start()
        user = cls(target, is_function=False, threads=threads, name=name)
        user.asgi_app = asgi_app
        return user

    def _new_pool(self) -> Threads:
        return Threads(self._threads, f"salver-{self.name}")

    def resize(self, threads: int) -> None:
        """Have as many threads from now on; what runs ends in the thread that it is in."""
        if threads == self._threads:
            return
        self._threads = threads
        outgoing, self._pool = self._pool, self._new_pool()
        outgoing.retire()
        if self.asgi_app is not None:
            self.asgi_app.resize(threads)

    def _find_http_handler(self) -> None:
        handler = self.target if self._is_function else getattr(self.target, "__call__", None)  # noqa: B004
        if handler is None:
            return
        self.http_handler = handler
        self.http_handler_is_async = is_async(handler)
        try:
            self.http_takes_request = bool(inspect.signature(handler).parameters)
        except (TypeError, ValueError):  # a C function tells nothing: give it the request
            self.http_takes_request = True

    async def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A handle call. Raises MethodMissing, UnexpectedGenerator, or what the user's code raises."""
        function, is_async = self._methods.get(method) or self._find_method(method)
        result = function(*args, **kwargs) if is_async else await self.in_thread(function, *args, **kwargs)
        if type(cast("object", result)) is CoroutineType or inspect.isawaitable(result):
            result = await result
        if isinstance(result, _GENERATORS):
            raise UnexpectedGenerator(
                f"Method '{method}' returned a generator. You must use `handle.options(stream=True)` "
                "to call generators on a deployment."
            )
        return result

    async def generate(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A handle call that streams: the generator, or other iterator, that the method gives. Raises as ``call``."""
        function, is_async = self._methods.get(method) or self._find_method(method)
        result = function(*args, **kwargs) if is_async else await self.in_thread(function, *args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
        if not hasattr(result, "__next__") and not hasattr(result, "__anext__"):
            raise UnexpectedGenerator(
                f"Called method '{method}' with `handle.options(stream=True)` but it did not return a generator."
            )
        return result

    def _find_method(self, method: str) -> tuple[Callable[..., Any], bool]:
        function = self.target if self._is_function and method == "__call__" else getattr(self.target, method, None)
        if self._is_function and method != "__call__":
            function = None
        if not callable(function):
            raise MethodMissing(
                f"Tried to call a method '{method}' that does not exist. Available methods: {self._available()}."
            )
        self._methods[method] = found = (function, is_async(function))
        return found

    def _available(self) -> list[str]:
        if self._is_function:
            return ["__call__"]
        names = [name for name in dir(self.target) if not name.startswith("_") or name == "__call__"]
        return [name for name in names if callable(getattr(self.target, name, None))]

    async def in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``function`` in the pool, with this task's context variables."""
        context = contextvars.copy_context()
        call = partial(context.run, _call_in_thread, function, *args, **kwargs)
        return await self._pool.run(call)

    async def stop(self, timeout_s: float) -> None:
        """Shut the user's ASGI application down, call the object's ``__del__``, then ``close``.

        Args:
            timeout_s: seconds that each of the two may take. What goes wrong is logged.
        """
        if self.asgi_app is not None:
            await self.asgi_app.stop(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await finalize(self.target)
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - the replica ends all the same
            logger.error("%s.__del__ failed\n%s", self.name, user_traceback(error))  # noqa: TRY400 - the user's frames
        self.close()

    def close(self) -> None:
        """Stop the pool without waiting for what still runs in it."""
        self._pool.close()


def _call_in_thread(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """A future cannot hold StopIteration: it becomes a RuntimeError, as it does in every ``async def``."""
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError("the method raised StopIteration") from error


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine or an asynchronous generator at once, without blocking."""
    candidates = [function, getattr(function, "__func__", None), getattr(cast(Any, type(function)), "__call__", None)]  # noqa: B004
    return any(
        inspect.iscoroutinefunction(candidate) or inspect.isasyncgenfunction(candidate)
        for candidate in candidates
        if candidate is not None
    )
