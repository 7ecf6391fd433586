"""The arguments of a handle call: responses among them are replaced by their values, the rest is pickled."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from salver.data.calls.call import OutgoingCall
from salver.data.shared_memory import SharedPayload, share
from salver.errors import SerializationError
from salver.serve.handles.response import DeploymentResponse, DeploymentResponseGenerator
from salver.wire.frames import Buffer
from salver.wire.payload import dump_value


def hold_response(value: object) -> bool:
    """Whether a response is in ``value``, a container of Python's own or nested ones.

    Raises:
        RuntimeError: a stream is.
    """
    kind = type(value)
    if issubclass(kind, DeploymentResponse):  # isinstance would ask the value itself, which may raise anything
        return True
    if kind is tuple or kind is list:
        return any([hold_response(item) for item in cast("list[object]", value)])  # noqa: C419 - streams after it count
    if kind is dict:
        return any([hold_response(item) for item in cast("dict[object, object]", value).values()])  # noqa: C419
    if kind is DeploymentResponseGenerator:
        raise RuntimeError(
            "Streaming deployment handle results cannot be passed to downstream handle calls. Iterate over them here "
            "and pass the items, or let the deployment that you call make the streaming call itself."
        )
    return False


def dump_arguments(key: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Buffer | SharedPayload:
    """Pickle them for a method of ``key``. Raises SerializationError, which names the one to blame."""
    try:
        return dump_value((args, kwargs), send_buffers=share)
    except SerializationError:
        callee = f"{key.partition('#')[2]}.{method}"
        for name, value in (*enumerate(args, start=1), *kwargs.items()):
            dump_value(value, f"{callee}: argument {name!r}")  # raises again, under its name
        raise


def start_when_resolved(
    call: OutgoingCall, key: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Start ``call`` when the last of the responses in its arguments has come; on the loop of the call site."""
    call.watch_deadline()
    task = asyncio.get_running_loop().create_task(_resolve_and_start(call, key, method, args, kwargs))
    _resolving.add(task)
    task.add_done_callback(_resolving.discard)


_resolving: set[asyncio.Task[None]] = set()
"""Keeps them alive until they end; ``_resolve_and_start`` handles its own errors."""


async def _resolve_and_start(
    call: OutgoingCall, key: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        payload = dump_arguments(key, method, await _resolved(args), await _resolved(kwargs))
    except BaseException as error:  # noqa: BLE001 - the failure of an argument is the failure of the call
        call.fail(error)
    else:
        call.start(payload)


async def _resolved(value: Any) -> Any:
    """``value`` with every response in it replaced by what it answered."""
    if isinstance(value, DeploymentResponse):
        return await cast("DeploymentResponse[Any]", value)
    kind = cast("type[object]", type(value))
    if kind is tuple:
        return tuple([await _resolved(item) for item in value])
    if kind is list:
        return [await _resolved(item) for item in value]
    if kind is dict:
        return {name: await _resolved(item) for name, item in value.items()}
    return value
