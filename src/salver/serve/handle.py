"""Handles: how deployments, scripts and notebooks call deployments.

Typing: in ``DeploymentHandle[T]``, T is the class that is served, or the type of the function. ``handle.remote(...)``
is checked against its ``__call__``, ``handle[Translator.translate].remote(...)``, or the same through ``options``,
against that method. ``handle.translate.remote(...)`` works as well and is not checked: Python's type system cannot
map the methods of one class to attributes of another. A handle to something more special can be passed where one to
something more general is expected: T is covariant. ``DeploymentHandle`` without T, and ``DeploymentHandle[Any]``,
check nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, Never, Unpack, overload

import msgspec

from salver.data.current import CallSite, call_site, on_first_call
from salver.serve.handles.broadcast import DeploymentBroadcastResponse, begin_broadcast
from salver.serve.handles.calling import begin_call
from salver.serve.handles.options import HandleOptions, RareHandleOptions, method_name_of
from salver.serve.handles.replica_selection import ReplicaSelection, choose_replica
from salver.serve.handles.response import DeploymentResponse, DeploymentResponseGenerator
from salver.serve.handles.typing import P, R, S, Streamed, T_co, Unknown

__all__ = [
    "DeploymentBroadcastResponse",
    "DeploymentHandle",
    "DeploymentResponse",
    "DeploymentResponseGenerator",
    "ReplicaSelection",
]


def _connect() -> CallSite:
    """In a process that is not ours: reach the instance that it has started, or the one that runs."""
    session = import_module("salver.serve.session")  # not before: replicas have all of this file, and never need it
    site: CallSite = session.connected_session().call_site()
    return site


on_first_call(_connect)


_MOST_METHODS = 256  # names may come from clients: what is kept of them must have a bound


class _Shared:
    """What a handle and the ones derived from it have in common."""

    __slots__ = ("initialized",)

    def __init__(self) -> None:
        self.initialized = False


_DEFAULT_OPTIONS = HandleOptions()


class DeploymentHandle(Generic[T_co]):
    """Calls one deployment; its replicas share the calls.

    ``handle.remote(...)`` calls ``__call__`` (or the function), ``handle.method.remote(...)`` a method. A handle may
    be made anywhere, pickled, and used from any thread and any event loop. What a request's code calls belongs to
    that request: it has the same request id, ends at the same deadline, and is cancelled with it.

    Args:
        deployment_name, app_name: whom to call.
        options: how.
    """

    __slots__ = ("_app_name", "_deployment_name", "_key", "_methods", "_options", "_shared")

    def __init__(
        self,
        deployment_name: str,
        app_name: str,
        options: HandleOptions = _DEFAULT_OPTIONS,
        _shared: _Shared | None = None,
    ) -> None:
        self._deployment_name = deployment_name
        self._app_name = app_name
        self._options = options
        self._shared = _shared or _Shared()
        self._key = f"{app_name}#{deployment_name}"
        self._methods: dict[str, DeploymentHandle[Any]] = {}
        """What ``handle.method`` has given: to make it again took a twentieth of what a request costs its caller."""

    @property
    def deployment_name(self) -> str:
        return self._deployment_name

    @property
    def app_name(self) -> str:
        return self._app_name

    # --- derived handles --------------------------------------------------------------------------------

    @overload
    def options(
        self: DeploymentHandle[Unknown],
        *,
        method_name: str | None = None,
        stream: Literal[True],
        **rare: Unpack[RareHandleOptions],
    ) -> StreamingHandle: ...
    @overload
    def options(
        self: DeploymentHandle[S],
        *,
        method_name: Callable[Concatenate[S, P], AsyncIterator[R] | Iterator[R]],
        stream: Literal[True],
        **rare: Unpack[RareHandleOptions],
    ) -> DeploymentHandle[Callable[P, Streamed[R]]]: ...
    @overload
    def options(
        self: DeploymentHandle[S],
        *,
        method_name: Callable[Concatenate[S, P], R],
        stream: Literal[False] = False,
        **rare: Unpack[RareHandleOptions],
    ) -> DeploymentHandle[Callable[P, R]]: ...
    @overload
    def options(
        self: DeploymentHandle[Callable[P, AsyncIterator[R] | Iterator[R]]],
        *,
        stream: Literal[True],
        **rare: Unpack[RareHandleOptions],
    ) -> DeploymentHandle[Callable[P, Streamed[R]]]: ...
    @overload
    def options(
        self, *, method_name: str | None = None, stream: Literal[True], **rare: Unpack[RareHandleOptions]
    ) -> StreamingHandle: ...
    @overload
    def options(
        self, *, method_name: str, stream: bool | None = None, **rare: Unpack[RareHandleOptions]
    ) -> DeploymentHandle[Any]: ...
    @overload
    def options(self, *, stream: None = None, **rare: Unpack[RareHandleOptions]) -> DeploymentHandle[T_co]: ...
    @overload
    def options(self, *, stream: bool | None = None, **rare: Unpack[RareHandleOptions]) -> DeploymentHandle[Any]: ...

    def options(self, **options: Any) -> DeploymentHandle[Any]:
        """A copy that calls in another way; what is not given stays as it is.

        Args:
            method_name: what ``remote`` calls: a name, or the method itself (``Translator.translate``), which type
                checkers understand. Default ``__call__``.
            stream: the method is a generator: ``remote`` gives a ``DeploymentResponseGenerator``. Default False.
            multiplexed_model_id: the model that the call is for: replicas that hold it are preferred.
            session_id: what belongs together: one replica is preferred for all calls of a session.
            _prefer_local_routing, _by_reference: accepted, without effect: every replica is on this machine, and
                arguments are always copied.
            request_serialization, response_serialization: ``cloudpickle``, ``pickle``, ``msgpack`` or ``orjson``;
                checked and without effect: values travel between our own processes, where one way serves all types.

        Raises:
            TypeError: an unknown option.
            ConfigurationError: a wrong value (a ``ValueError``).
        """
        return self._derived(self._options.changed(options))

    @overload
    def __getitem__(
        self: DeploymentHandle[S], method: Callable[Concatenate[S, P], AsyncIterator[R] | Iterator[R]]
    ) -> DeploymentHandle[Callable[P, Streamed[R]]]: ...
    @overload
    def __getitem__(
        self: DeploymentHandle[S], method: Callable[Concatenate[S, P], R]
    ) -> DeploymentHandle[Callable[P, R]]: ...

    def __getitem__(self, method: Callable[..., Any]) -> DeploymentHandle[Any]:
        """``handle[Translator.translate]`` is ``handle.translate``, checked: by type checkers, and for typing errors.

        A generator function is streamed.
        """
        stream = inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method)
        return self.options(method_name=method_name_of(method), stream=stream)

    def __getattr__(self, name: str) -> DeploymentHandle[Any]:
        if name.startswith("__") and name.endswith("__"):  # pickle, copy and inspect look for these
            raise AttributeError(name)
        method = self._methods.get(name)
        if method is None:
            method = self._derived(msgspec.structs.replace(self._options, method_name=name))
            if len(self._methods) < _MOST_METHODS:
                self._methods[name] = method
        return method

    def _derived(self, options: HandleOptions) -> DeploymentHandle[Any]:
        return DeploymentHandle(self._deployment_name, self._app_name, options, self._shared)

    # --- calling ----------------------------------------------------------------------------------------

    # Overloads, in this order: nothing is known; only that it streams; a DeploymentResponse in the first or second
    # place (it can stand for any argument, which the type system cannot say of all at once); then what the method
    # takes. Of the last: a stream; a generator without ``stream``, which never gives a value; ``async def``; the
    # rest. "Or a coroutine" in the rest keeps it in agreement with the overload before where an argument is Any and
    # both fit.
    @overload
    def remote(self: DeploymentHandle[Unknown], *args: Any, **kwargs: Any) -> DeploymentResponse[Any]: ...
    @overload
    def remote(self: DeploymentHandle[Streamed[R]], *args: Any, **kwargs: Any) -> DeploymentResponseGenerator[R]: ...
    @overload
    def remote(  # pyright: ignore[reportOverlappingOverload] - a value that is Streamed does not exist
        self: DeploymentHandle[Callable[..., Streamed[R]]], a: DeploymentResponse[Any], /, *more: Any, **kwargs: Any
    ) -> DeploymentResponseGenerator[R]: ...
    @overload
    def remote(  # pyright: ignore[reportOverlappingOverload] - a value that is Streamed does not exist
        self: DeploymentHandle[Callable[..., Streamed[R]]],
        a: Any,
        b: DeploymentResponse[Any],
        /,
        *more: Any,
        **kwargs: Any,
    ) -> DeploymentResponseGenerator[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[..., Coroutine[Any, Any, R]]],
        a: DeploymentResponse[Any],
        /,
        *more: Any,
        **kwargs: Any,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[..., Coroutine[Any, Any, R]]],
        a: Any,
        b: DeploymentResponse[Any],
        /,
        *more: Any,
        **kwargs: Any,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[..., Coroutine[Any, Any, R] | R]],
        a: DeploymentResponse[Any],
        /,
        *more: Any,
        **kwargs: Any,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[..., Coroutine[Any, Any, R] | R]],
        a: Any,
        b: DeploymentResponse[Any],
        /,
        *more: Any,
        **kwargs: Any,
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[P, Streamed[R]]], *args: P.args, **kwargs: P.kwargs
    ) -> DeploymentResponseGenerator[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[P, AsyncIterator[R] | Iterator[R]]], *args: P.args, **kwargs: P.kwargs
    ) -> DeploymentResponse[Never]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[P, Coroutine[Any, Any, R]]], *args: P.args, **kwargs: P.kwargs
    ) -> DeploymentResponse[R]: ...
    @overload
    def remote(
        self: DeploymentHandle[Callable[P, Coroutine[Any, Any, R] | R]], *args: P.args, **kwargs: P.kwargs
    ) -> DeploymentResponse[R]: ...

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call without waiting; the call starts at once, awaited or not.

        Arguments are copied by pickling. A ``DeploymentResponse`` among them, also within lists, tuples and dicts, is
        replaced by its value before the callee runs.

        Returns:
            A ``DeploymentResponse``; of a handle with ``options(stream=True)`` a ``DeploymentResponseGenerator``.

        Raises:
            SerializationError: an argument cannot be pickled; the message says which.
            RuntimeError: an argument is a stream.
        """
        self._shared.initialized = True
        return begin_call(self._key, self._options, args, kwargs)

    def dispatch(self, selection: ReplicaSelection, *args: Any, **kwargs: Any) -> Any:
        """``remote``, to the replica that ``choose_replica`` gave; once, within its ``async with``.

        Raises:
            ValueError: the selection is of another deployment.

        Otherwise as ``remote``; ``ReplicaUnavailableError`` when the replica has left meanwhile.
        """
        return begin_call(self._key, self._options, args, kwargs, selection.send_for(self._key))

    def choose_replica(self, *_args: Any, **_kwargs: Any) -> AbstractAsyncContextManager[ReplicaSelection]:
        """Choose the replica that a call would get now, and keep its place: ``async with`` gives a selection.

        The place counts as a request until ``dispatch`` has used it or the block ends.

        Args:
            _args, _kwargs: of the call to come; accepted, and not looked at.

        Raises, when entered, what waiting for a replica may raise: BackPressureError, DeploymentUnavailableError,
        RequestTimeoutError.
        """
        self._shared.initialized = True
        return choose_replica(self._key, self._options)

    def broadcast(self, method_name: str, *args: Any, **kwargs: Any) -> DeploymentBroadcastResponse:
        """Call a method of every replica, once each; those that are full run it when they have a free slot.

        Raises:
            SerializationError: an argument cannot be pickled.
            TypeError: an argument is a ``DeploymentResponse``.
        """
        self._shared.initialized = True
        options = self._options.changed({"method_name": method_name, "stream": False})
        return begin_broadcast(self._key, options, args, kwargs)

    # --- life -------------------------------------------------------------------------------------------

    def _init(self, **options: Any) -> None:
        """Connect to the replicas now, not with the first call.

        Args:
            options: ``_prefer_local_routing`` and ``_run_router_in_separate_loop`` are known and without effect.

        Raises:
            RuntimeError: this handle, or one that it was derived from, has made calls or was initialized.
            TypeError: an unknown option.
        """
        for name in options:
            if name not in ("_prefer_local_routing", "_run_router_in_separate_loop"):
                raise TypeError(f"DeploymentHandle._init() has no option {name!r}")
        if self._shared.initialized:
            raise RuntimeError(
                "This handle is initialized already. Call `_init` once, and before the first `.remote()`, "
                "which initializes it too."
            )
        self._shared.initialized = True
        site = call_site()
        site.run(site.caller.prepare, self._key)

    @property
    def is_initialized(self) -> bool:
        """Whether this handle, or one that it was derived from, has made a call, or ``_init`` was called."""
        return self._shared.initialized

    def running_replicas_populated(self) -> bool:
        """Whether this process is connected to a replica; False before the first call or ``_init``."""
        if not self._shared.initialized:
            return False
        return call_site().caller.has_replicas(self._key)

    def shutdown(self) -> None:
        """Nothing to let go of: connections belong to the process, which shares them among its handles.

        The handle can be used again, and initialized again.
        """
        self._shared.initialized = False

    async def shutdown_async(self) -> None:
        """As ``shutdown``."""
        self.shutdown()

    def __reduce__(self) -> tuple[object, ...]:
        return DeploymentHandle, (self._deployment_name, self._app_name, self._options)

    def __repr__(self) -> str:
        options = self._options
        method = "" if options.method_name == "__call__" else f", method='{options.method_name}'"
        stream = ", stream=True" if options.stream else ""
        return f"DeploymentHandle(deployment='{self._deployment_name}', app='{self._app_name}'{method}{stream})"


if TYPE_CHECKING:

    class StreamingHandle(DeploymentHandle[Streamed[Any]]):
        """A handle with ``options(stream=True)`` of which nothing more is known."""

        def __getattr__(self, name: str) -> StreamingHandle: ...
