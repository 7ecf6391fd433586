"""Handles: how deployments, scripts and notebooks call deployments."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Generator
from functools import partial
from typing import Any, Generic, TypeVar, cast

from salver.data.call import Call, own
from salver.data.context import new_request_id, request_context
from salver.data.current import CallSite, call_site
from salver.errors import SerializationError
from salver.wire.frames import Buffer
from salver.wire.messages import CallMeta
from salver.wire.payload import dump_value

T = TypeVar("T")


class DeploymentHandle(Generic[T]):
    """Calls one deployment; its replicas share the calls.

    ``handle.remote(...)`` calls ``__call__`` (or the function), ``handle.method.remote(...)`` a method. A handle may
    be made anywhere, pickled, and used from any thread and any event loop.

    Args:
        deployment_name, app_name: whom to call.
        method_name: what ``remote`` calls, default ``__call__``.
    """

    __slots__ = ("_app_name", "_deployment_name", "_method_name")

    def __init__(self, deployment_name: str, app_name: str, method_name: str = "__call__") -> None:
        self._deployment_name = deployment_name
        self._app_name = app_name
        self._method_name = method_name

    @property
    def deployment_name(self) -> str:
        return self._deployment_name

    @property
    def app_name(self) -> str:
        return self._app_name

    def options(self, *, method_name: str | None = None) -> DeploymentHandle[T]:
        """A copy that calls another method."""
        return DeploymentHandle(self._deployment_name, self._app_name, method_name or self._method_name)

    def __getattr__(self, name: str) -> DeploymentHandle[T]:
        if name.startswith("__") and name.endswith("__"):  # pickle, copy and inspect look for these
            raise AttributeError(name)
        return DeploymentHandle(self._deployment_name, self._app_name, name)

    def remote(self, *args: Any, **kwargs: Any) -> DeploymentResponse:
        """Call without waiting; the call starts at once, awaited or not.

        Arguments are copied by pickling. A ``DeploymentResponse`` among them, also within lists, tuples and dicts, is
        replaced by its value before the callee runs.

        Raises:
            SerializationError: an argument cannot be pickled; the message says which.
        """
        site = call_site()
        context = request_context.get()
        meta = CallMeta(self._method_name, context.request_id or new_request_id(), context.route, context.app_name)
        call = Call(site, f"{self._app_name}#{self._deployment_name}", meta)
        callee = f"{self._deployment_name}.{self._method_name}"
        if _holds_response(args) or _holds_response(kwargs):
            _on_loop(site, _start_when_resolved, call, callee, args, kwargs)
        else:
            _on_loop(site, call.start, _dump_arguments(callee, args, kwargs))
        return DeploymentResponse(call, site, meta.request_id)

    def __reduce__(self) -> tuple[object, ...]:
        return DeploymentHandle, (self._deployment_name, self._app_name, self._method_name)

    def __repr__(self) -> str:
        method = "" if self._method_name == "__call__" else f", method='{self._method_name}'"
        return f"DeploymentHandle(deployment='{self._deployment_name}', app='{self._app_name}'{method})"


class DeploymentResponse:
    """The answer of a call, now or later: ``await response``, or ``response.result()`` where there is no loop.

    May be awaited several times, and passed as an argument of other calls without being awaited.
    """

    __slots__ = ("_call", "_site", "request_id")

    def __init__(self, call: Call, site: CallSite, request_id: str) -> None:
        self._call = call
        self._site = site
        self.request_id = request_id

    def __await__(self) -> Generator[Any, None, Any]:
        """The callee's value, or its exception as the user's own class, with the remote traceback as its cause."""
        if self._site.is_here:
            return self._call.future.__await__()
        return asyncio.wrap_future(self._elsewhere()).__await__()

    def result(self, *, timeout_s: float | None = None) -> Any:
        """Wait for the value in a thread without a running loop.

        Args:
            timeout_s: seconds to wait, None for as long as it takes; the call goes on after a timeout.

        Raises:
            TimeoutError: it did not come in time.
            RuntimeError: called inside a running event loop, which it would block.
        """
        if asyncio._get_running_loop() is not None:  # pyright: ignore[reportPrivateUsage]
            raise RuntimeError(
                "Sync methods should not be called from within an `asyncio` event loop. Use `await response` instead."
            )
        return self._elsewhere().result(timeout_s)

    def _elsewhere(self) -> concurrent.futures.Future[Any]:
        """The answer for another thread than the call site's loop."""
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._site.loop.call_soon_threadsafe(self._call.future.add_done_callback, partial(_copy, target=answer))
        return answer

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError(
            "a DeploymentResponse cannot be pickled: await it first, or pass it as an argument (or inside a list, "
            "tuple or dict) of a handle call, which resolves it"
        )

    def __repr__(self) -> str:
        state = "done" if self._call.future.done() else "pending"
        return f"DeploymentResponse(request_id='{self.request_id}', {state})"


def _on_loop(site: CallSite, function: Any, *args: Any) -> None:
    if site.is_here:
        function(*args)
    else:
        site.loop.call_soon_threadsafe(function, *args)


def _copy(source: asyncio.Future[Any], target: concurrent.futures.Future[Any]) -> None:
    if not target.set_running_or_notify_cancel():
        return
    if source.cancelled():
        target.set_exception(asyncio.CancelledError())
    elif (error := source.exception()) is not None:
        target.set_exception(error)
    else:
        target.set_result(source.result())


def _holds_response(value: object) -> bool:
    """Whether a response is in ``value``, a container of Python's own or nested ones."""
    if isinstance(value, DeploymentResponse):
        return True
    kind = type(value)
    if kind is tuple or kind is list:
        return any(_holds_response(item) for item in cast("list[object]", value))
    if kind is dict:
        return any(_holds_response(item) for item in cast("dict[object, object]", value).values())
    return False


def _dump_arguments(callee: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Buffer:
    try:
        return dump_value((args, kwargs))
    except SerializationError:
        for name, value in (*enumerate(args, start=1), *kwargs.items()):
            dump_value(value, f"{callee}: argument {name!r}")  # the one to blame raises again, under its name
        raise


def _start_when_resolved(call: Call, callee: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    own(asyncio.get_running_loop().create_task(_resolve_and_start(call, callee, args, kwargs)))


async def _resolve_and_start(call: Call, callee: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        payload = _dump_arguments(callee, await _resolved(args), await _resolved(kwargs))
    except BaseException as error:  # noqa: BLE001 - the failure of an argument is the failure of the call
        call.fail(error)
    else:
        call.start(payload)


async def _resolved(value: Any) -> Any:
    """``value`` with every response in it replaced by what it answered."""
    if isinstance(value, DeploymentResponse):
        return await value
    kind = cast("type[object]", type(value))
    if kind is tuple:
        return tuple([await _resolved(item) for item in value])
    if kind is list:
        return [await _resolved(item) for item in value]
    if kind is dict:
        return {name: await _resolved(item) for name, item in value.items()}
    return value
