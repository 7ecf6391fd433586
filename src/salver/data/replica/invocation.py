"""One request in user code: called, awaited, answered, whatever it does.

No function here keeps an exception in a variable beyond its ``except`` clause: the exception refers to its traceback,
that to the function's frame, and so the request's arguments, gigabytes perhaps, would wait for the garbage collector.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from salver.data.channel import Channel
from salver.data.context import RequestContext, request_context
from salver.data.replica.asgi import WHOLE_AT_MOST, HTTPExchange, build_scope
from salver.data.replica.call_stream import CallStream
from salver.data.replica.failure_text import tamed, user_traceback
from salver.data.replica.responses import send_response
from salver.data.replica.results import encode_result
from salver.data.replica.scope import RequestScope, request_scope
from salver.data.replica.user_code import MethodMissing, UnexpectedGenerator, UserCode
from salver.data.shared_memory import load_shared, share
from salver.errors import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestTimeoutError,
    SerializationError,
)
from salver.wire.error_text import text_of
from salver.wire.frames import SHARED, Frame, Kind
from salver.wire.messages import CallMeta, ErrorKind, ErrorMeta, RequestMeta, decode_call, decode_request, encode
from salver.wire.payload import dump_exception, dump_plain, dump_value, load_value

if TYPE_CHECKING:
    from salver.data.replica.asgi_websocket import WebSocketSession

logger = logging.getLogger("salver.replica")

_RESPONSE = int(Kind.RESPONSE)
_WEBSOCKET_SCHEMES = frozenset(("ws", "wss"))


class Invocation(RequestScope, eq=False):
    """A request that runs: where its answer goes, and how to stop it.

    Attributes:
        channel, stream: where it came from, and where the answer goes.
        exchange: its HTTP or WebSocket side, or the items of a call that streams; None for any other call.
        abandoned: its caller no longer waits.
        task: runs it; None when it has ended.
        exception_type: of what it failed with, for the metrics; empty when it did not.
        grace: runs from its cancellation until it ends; None while it was not cancelled.
    """

    channel: Channel
    stream: int
    exchange: HTTPExchange | WebSocketSession | CallStream | None = None
    task: asyncio.Task[None] | None = None
    abandoned: bool = False
    exception_type: str = ""
    grace: asyncio.TimerHandle | None = None

    def abandon(self) -> None:
        """Nobody waits for the answer any more: user code is cancelled, and so is what it has called."""
        self.abandoned = True
        if self.exchange is not None:
            self.exchange.disconnect()
        if self.task is not None:
            self.task.cancel()
        self.cancel_calls()


async def invoke_call(invocation: Invocation, user: UserCode, app_name: str, frame: Frame) -> None:
    """Run a handle call and send its RESPONSE or ERROR; raises nothing."""
    try:
        meta = decode_call(frame.meta)
        _enter_request(app_name, meta, meta.route, is_http=False)
        request_scope.set(invocation)
        args, kwargs = _load_arguments(frame, user, meta.method)
        if meta.stream:
            invocation.exchange = stream = CallStream(invocation.channel, invocation.stream)
            await stream.send_all(await user.generate(meta.method, args, kwargs), user, meta.method)
            return
        result = await user.call(meta.method, args, kwargs)
        payload = dump_plain(result) or dump_value(result, f"the result of {user.name}.{meta.method}", share)
    except BaseException as raised:  # noqa: BLE001 - SystemExit and friends end the request, not the replica
        _call_failed(invocation, tamed(raised))
    else:
        invocation.channel.send_value(_RESPONSE, invocation.stream, payload)


def _load_arguments(frame: Frame, user: UserCode, method: str) -> Any:
    try:
        return load_shared(frame.payload) if frame.flags & SHARED else load_value(frame.payload)
    except SerializationError as error:
        raise SerializationError(f"the arguments of {user.name}.{method}: {error}") from error


async def invoke_http(
    exchange: HTTPExchange, invocation: Invocation, user: UserCode, app_name: str, frame: Frame
) -> None:
    """Run an HTTP request and answer it; raises nothing."""
    what = "an unreadable request"
    try:
        meta = decode_request(frame.meta)
        what = f"{meta.method} {meta.root_path or '/'}"
        _enter_request(app_name, meta, meta.root_path or "/", is_http=True)
        request_scope.set(invocation)
        if meta.scheme in _WEBSOCKET_SCHEMES:
            await _handle_websocket(user, meta, exchange, invocation)
        elif user.asgi_app is not None:
            await user.asgi_app(build_scope(meta), exchange.receive, exchange.send)
        else:
            result = _call_handler(user, meta, exchange)
            if hasattr(result, "__await__"):
                result = await result
            if isinstance(result, Response) or hasattr(result, "__next__") or hasattr(result, "__anext__"):
                response = (
                    result if isinstance(result, Response) else StreamingResponse(result, media_type="text/plain")
                )
                await send_response(response, meta, exchange)
            else:
                block, body = encode_result(result)
                if len(body) <= WHOLE_AT_MOST:
                    exchange.respond(200, block, body)
                else:
                    await exchange.respond_in_pieces(200, block, body)
        exchange.check_finished()
    except BaseException as raised:  # noqa: BLE001 - as above
        _http_failed(invocation, exchange, what, tamed(raised))


def _enter_request(app_name: str, meta: CallMeta | RequestMeta, route: str, *, is_http: bool) -> None:
    deadline = time.monotonic() + meta.remaining_s if meta.remaining_s else None
    request_context.set(
        RequestContext(route, meta.request_id, app_name, is_http, deadline, meta.model_id, meta.session_id)
    )


def _call_handler(user: UserCode, meta: RequestMeta, exchange: HTTPExchange) -> Any:
    """What a handler without ASGI gives, or something that can be awaited for it."""
    if user.http_handler is None:
        raise MethodMissing("the ingress has no __call__ method: HTTP requests have nothing to call")
    arguments = (Request(build_scope(meta), exchange.receive),) if user.http_takes_request else ()
    if user.http_handler_is_async:
        return user.http_handler(*arguments)
    return user.in_thread(user.http_handler, *arguments)


async def _handle_websocket(
    user: UserCode, meta: RequestMeta, exchange: HTTPExchange, invocation: Invocation
) -> None:
    from salver.data.replica.asgi_websocket import WebSocketSession, serve_websocket  # few replicas need it

    session = WebSocketSession(exchange, invocation.channel, invocation.stream)
    invocation.exchange = session
    await serve_websocket(user.asgi_app, meta, session)


def _call_failed(invocation: Invocation, error: BaseException) -> None:
    if not _was_cancelled(error):
        invocation.exception_type = type(error).__name__
        _send_error(invocation, error)


def _http_failed(invocation: Invocation, exchange: HTTPExchange, what: str, error: BaseException) -> None:
    if invocation.abandoned:
        return
    invocation.exception_type = type(error).__name__
    failure = _http_failure(error)
    if failure.kind != ErrorKind.BACKPRESSURE:
        _log_failure(what, failure.traceback or failure.message)
    exchange.fail(failure)


def _http_failure(error: BaseException) -> ErrorMeta:
    """What the ingress must know to tell the client; tracebacks are for the log, and for clients in debug mode."""
    name, text = type(error).__qualname__, text_of(error)
    if isinstance(error, BackPressureError):
        after = error.retry_after_s
        return ErrorMeta(ErrorKind.BACKPRESSURE, name, text, status=error.status_code, retry_after_s=after)
    if isinstance(error, DeploymentUnavailableError):
        return ErrorMeta(ErrorKind.UNAVAILABLE, name, text)
    if isinstance(error, ReplicaUnavailableError):
        return ErrorMeta(ErrorKind.LOST, name, text)
    if isinstance(error, RequestTimeoutError):
        return ErrorMeta(ErrorKind.DEADLINE, name, text)
    return ErrorMeta(ErrorKind.USER, name, text, user_traceback(error))


def _was_cancelled(error: BaseException) -> bool:
    """Whether the task itself was, by its caller or by the replica's end: user code can raise CancelledError too."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _send_error(invocation: Invocation, error: BaseException) -> None:
    """Tell the caller, and the log unless the call itself was wrong."""
    text = user_traceback(error)
    kind = ErrorKind.USER
    if isinstance(error, MethodMissing):
        kind = ErrorKind.NO_METHOD
    elif isinstance(error, UnexpectedGenerator):
        kind = ErrorKind.GENERATOR
    elif isinstance(error, SerializationError):
        kind = ErrorKind.SERIALIZATION
    elif isinstance(error, asyncio.CancelledError):
        kind = ErrorKind.CANCELLED
        _log_failure("call", text)
    else:
        _log_failure("call", text)
    meta = encode(ErrorMeta(kind, type(error).__qualname__, text_of(error), text))
    payload = dump_exception(error) if kind == ErrorKind.USER else b""
    invocation.channel.send(Kind.ERROR, invocation.stream, meta, payload)


def _log_failure(what: str, text: str) -> None:
    """One record per failure, under the request's id; the traceback is the user's, not the logging module's."""
    logger.error("%s failed\n%s", what, text)
