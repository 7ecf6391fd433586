"""One request in user code: called, awaited, answered, whatever it does."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from salver.data.asgi import HTTPExchange, build_scope
from salver.data.channel import Channel
from salver.data.context import ReplicaIdentity, RequestContext, replica_identity, request_context
from salver.data.http_response import encode_header_block
from salver.data.results import encode_result
from salver.data.user_code import MethodMissing, UnexpectedGenerator, UserCode
from salver.errors import BackPressureError, DeploymentUnavailableError, SerializationError
from salver.wire.frames import Frame, Kind
from salver.wire.messages import ErrorKind, ErrorMeta, RequestMeta, decode_call, decode_request, encode
from salver.wire.payload import dump_exception, dump_value, load_value

logger = logging.getLogger("salver.replica")

_PLAIN_TEXT = b"content-type: text/plain; charset=utf-8\r\n"
_UNAVAILABLE = b"A part of this application is unavailable."


class Invocation:
    """A request that runs: where its answer goes, and how to stop it.

    Attributes:
        exchange: its HTTP side, None for a handle call.
        abandoned: its caller no longer waits.
    """

    __slots__ = ("abandoned", "channel", "exchange", "stream", "task")

    def __init__(self, channel: Channel, stream: int, exchange: HTTPExchange | None) -> None:
        self.channel = channel
        self.stream = stream
        self.exchange = exchange
        self.task: asyncio.Task[None] | None = None
        self.abandoned = False

    def abandon(self) -> None:
        """Nobody waits for the answer any more: user code is cancelled."""
        self.abandoned = True
        if self.exchange is not None:
            self.exchange.disconnect()
        if self.task is not None:
            self.task.cancel()


async def invoke_call(invocation: Invocation, user: UserCode, identity: ReplicaIdentity, frame: Frame) -> None:
    """Run a handle call and send its RESPONSE or ERROR; raises nothing."""
    try:
        meta = decode_call(frame.meta)
        _enter_request(identity, meta.route, meta.request_id, is_http=False)
        args, kwargs = load_value(frame.payload)
        result = await user.call(meta.method, args, kwargs)
        payload = dump_value(result, f"the result of {user.name}.{meta.method}")
    except BaseException as error:  # noqa: BLE001 - SystemExit and friends end the request, not the replica
        if not (isinstance(error, asyncio.CancelledError) and invocation.abandoned):
            _send_error(invocation, error)
    else:
        invocation.channel.send(Kind.RESPONSE, invocation.stream, b"", payload)


async def invoke_http(
    exchange: HTTPExchange, invocation: Invocation, user: UserCode, identity: ReplicaIdentity, frame: Frame
) -> None:
    """Run an HTTP request and answer it; raises nothing."""
    what = "an unreadable request"
    try:
        meta = decode_request(frame.meta)
        what = f"{meta.method} {meta.root_path or '/'}"
        _enter_request(identity, meta.root_path or "/", meta.request_id, is_http=True)
        await _handle_http(user, meta, exchange)
    except (BackPressureError, DeploymentUnavailableError) as error:
        _answer_unavailable(exchange, what, error)
    except BaseException as error:  # noqa: BLE001 - as above
        if not invocation.abandoned:
            _log_failure(what, user_traceback(error))
        exchange.fail()


def _enter_request(identity: ReplicaIdentity, route: str, request_id: str, *, is_http: bool) -> None:
    replica_identity.set(identity)
    request_context.set(RequestContext(route, request_id, identity.app_name, is_http))


async def _handle_http(user: UserCode, meta: RequestMeta, exchange: HTTPExchange) -> None:
    if user.http_handler is None:
        raise MethodMissing("the ingress has no __call__ method: HTTP requests have nothing to call")
    scope = build_scope(meta)
    arguments = (Request(scope, exchange.receive),) if user.http_takes_request else ()
    if user.http_handler_is_async:
        result = user.http_handler(*arguments)
        if hasattr(result, "__await__"):
            result = await result
    else:
        result = await user.in_thread(user.http_handler, *arguments)
    if hasattr(result, "__next__") or hasattr(result, "__anext__"):
        result = StreamingResponse(result, media_type="text/plain")
    if not isinstance(result, Response):
        exchange.respond(200, *encode_result(result))
    elif type(result).__call__ is Response.__call__ and result.background is None:
        block, declared = encode_header_block(result.raw_headers)
        exchange.respond(result.status_code, block, result.body, -1 if declared is None else declared)
    else:
        await result(scope, exchange.receive, exchange.send)
        if not exchange.finished:
            exchange.fail()


def _answer_unavailable(
    exchange: HTTPExchange, what: str, error: BackPressureError | DeploymentUnavailableError
) -> None:
    """503 (or 429), without the names of deployments: those are for the log."""
    if exchange.started:
        exchange.fail()
    elif isinstance(error, BackPressureError):
        exchange.respond(error.status_code, _PLAIN_TEXT, str(error).encode())
    else:
        _log_failure(what, str(error))
        exchange.respond(503, _PLAIN_TEXT, _UNAVAILABLE)


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
    else:
        _log_failure("call", text)
    meta = encode(ErrorMeta(kind, type(error).__qualname__, text_of(error), text))
    payload = dump_exception(error) if kind == ErrorKind.USER else b""
    invocation.channel.send(Kind.ERROR, invocation.stream, meta, payload)


def _log_failure(what: str, text: str) -> None:
    """One record per failure, under the request's id; the traceback is the user's, not the logging module's."""
    logger.error("%s failed\n%s", what, text)


def user_traceback(error: BaseException) -> str:
    """The traceback without our own frames at its beginning."""
    walk: Any = error.__traceback__
    while walk is not None and _is_ours(walk.tb_frame.f_globals.get("__name__", "")):
        walk = walk.tb_next
    return "".join(traceback.format_exception(type(error), error, walk or error.__traceback__)).rstrip()


def _is_ours(module: str) -> bool:
    return module.startswith(("salver.data.", "salver.wire.", "concurrent.futures", "asyncio", "starlette.")) or (
        module == "importlib" or module.startswith("importlib.")
    )


def text_of(error: BaseException) -> str:
    """``str(error)``, also where a user's ``__str__`` raises."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - that is what it is for
        return f"<{type(error).__qualname__} whose __str__ raises>"
