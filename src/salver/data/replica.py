"""A replica: one user object, a number of slots, and the channels of everyone who calls it.

The replica alone decides what runs. A request that finds no free slot is answered BUSY before anything of it has
started, and its caller gets in line; a slot that frees is reserved for the first in line and offered with READY.
A reservation that is not used within a second goes to the next, so that a stopped caller cannot hold a slot.

To leave, it says GOAWAY to every caller, answers BUSY from then on, and exits when the last caller has hung up:
nothing that a caller sent before it read GOAWAY is lost.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Callable
from types import CoroutineType
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from salver.data.asgi import HTTPExchange, build_scope
from salver.data.channel import Channel
from salver.data.context import ReplicaIdentity, RequestContext, replica_identity, request_context
from salver.data.http_response import encode_header_block
from salver.data.load_board import LoadBoard
from salver.data.results import encode_result
from salver.data.user_code import MethodMissing, UnexpectedGenerator, UserCode
from salver.errors import BackPressureError, DeploymentUnavailableError, SerializationError
from salver.records import CodeContext
from salver.wire.frames import Frame, Kind
from salver.wire.messages import (
    Drain,
    ErrorKind,
    ErrorMeta,
    Initialize,
    RequestMeta,
    decode_call,
    decode_control,
    decode_request,
    encode,
)
from salver.wire.payload import dump_exception, dump_value, load_value

logger = logging.getLogger("salver.replica")

CONTROLLER = "controller"
_RESERVED_FOR_S = 1.0
_PLAIN_TEXT = b"content-type: text/plain; charset=utf-8\r\n"


class Replica:
    """Serves one user object.

    Args:
        key: session key that every caller's hello must hold.
        board, slot: where the number of running requests is published.
        prepare: makes the user's modules importable, before the definition is unpickled.
    """

    def __init__(self, *, key: bytes, board: LoadBoard, slot: int, prepare: Callable[[CodeContext], None]) -> None:
        self._key = key
        self._cells = board.cells
        self._slot = slot
        self._prepare = prepare
        self._user: UserCode | None = None
        self._identity: ReplicaIdentity | None = None
        self._initialized: asyncio.Task[None] | None = None
        self._capacity = 0
        self._ongoing = 0
        self._channels: set[Channel] = set()
        self._waiting: dict[Channel, None] = {}
        self._reserved: dict[Channel, asyncio.TimerHandle] = {}
        self._running: dict[tuple[Channel, int], tuple[asyncio.Task[None], HTTPExchange | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self.constructed = asyncio.Event()
        self.drained = asyncio.Event()
        """Set when, after a drain, nothing runs and no caller is connected."""
        self._cells[slot] = 0

    def accept(self) -> Channel:
        """A channel for a caller that dials."""
        channel = Channel(self, expect_key=self._key)
        self._channels.add(channel)
        if self._draining:
            channel.send(Kind.GOAWAY)
        return channel

    async def close(self) -> None:
        """Cancel what runs and let the user's object go. May be called twice."""
        tasks = list(self._tasks)
        if self._initialized is not None:
            tasks.append(self._initialized)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in list(self._channels):
            channel.close()
        for timer in self._reserved.values():
            timer.cancel()
        self._reserved.clear()
        self._cells[self._slot] = 0
        if self._user is not None:
            self._user.close()
            self._user = None

    # --- frames -----------------------------------------------------------------------------------------

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        kind = frame.kind
        if kind == Kind.REQUEST:
            self._start(channel, frame, HTTPExchange)
        elif kind == Kind.CALL:
            self._start(channel, frame, None)
        elif kind == Kind.BODY or kind == Kind.CREDIT:
            _, exchange = self._running.get((channel, frame.stream), (None, None))
            if exchange is not None:
                (exchange.body_received if kind == Kind.BODY else exchange.credit_received)(frame)
        elif kind == Kind.CANCEL:
            self._cancel(channel, frame.stream)
        elif kind == Kind.WAIT:
            self._waiting[channel] = None
            self._offer_slots()
        elif kind == Kind.DECLINE:
            self._release_reservation(channel)
        elif kind == Kind.CONTROL:
            self._control(channel, frame)

    def channel_lost(self, channel: Channel) -> None:
        self._channels.discard(channel)
        self._waiting.pop(channel, None)
        for key in [key for key in self._running if key[0] is channel]:
            self._cancel(*key)
        self._release_reservation(channel)
        self._check_drained()

    # --- slots ------------------------------------------------------------------------------------------

    def _start(
        self, channel: Channel, frame: Frame, make_exchange: Callable[[Channel, Frame], HTTPExchange] | None
    ) -> None:
        if not self._take_slot(channel):
            self._waiting[channel] = None
            channel.send(Kind.BUSY, frame.stream, load=min(self._ongoing, 0xFFFF))
            return
        self._cells[self._slot] = self._ongoing
        key = (channel, frame.stream)
        if make_exchange is not None:
            exchange = make_exchange(channel, frame)
            task = asyncio.create_task(self._run_request(key, frame, exchange))
        else:
            exchange = None
            task = asyncio.create_task(self._run_call(key, frame))
        self._running[key] = (task, exchange)
        self._tasks.add(task)

    def _take_slot(self, channel: Channel) -> bool:
        if self._draining or self._user is None:
            return False
        timer = self._reserved.pop(channel, None)
        if timer is not None:
            timer.cancel()
        elif self._ongoing + len(self._reserved) >= self._capacity:
            return False
        self._ongoing += 1
        return True

    def _free_slot(self, key: tuple[Channel, int], task: asyncio.Task[None] | None) -> None:
        self._running.pop(key, None)
        if task is not None:
            self._tasks.discard(task)
        self._ongoing -= 1
        self._cells[self._slot] = self._ongoing
        if self._waiting:
            self._offer_slots()
        if self._draining:
            self._check_drained()

    def _offer_slots(self) -> None:
        if self._draining or self._user is None:
            return
        loop = asyncio.get_running_loop()
        while self._waiting and self._ongoing + len(self._reserved) < self._capacity:
            channel = next(iter(self._waiting))
            del self._waiting[channel]
            if channel not in self._reserved:
                self._reserved[channel] = loop.call_later(_RESERVED_FOR_S, self._release_reservation, channel)
            channel.send(Kind.READY, load=min(self._ongoing, 0xFFFF))

    def _release_reservation(self, channel: Channel) -> None:
        timer = self._reserved.pop(channel, None)
        if timer is not None:
            timer.cancel()
            self._offer_slots()

    def _cancel(self, channel: Channel, stream: int) -> None:
        key = (channel, stream)
        task, exchange = self._running.pop(key, (None, None))
        if exchange is not None:
            exchange.disconnect()
        if task is not None:
            task.cancel()
            coroutine = cast("CoroutineType[Any, Any, None]", task.get_coro())
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                # Cancelled before its first step, a task never enters its coroutine, nor the `finally` in there.
                task.add_done_callback(lambda task: self._free_slot(key, task))

    # --- running user code ------------------------------------------------------------------------------

    async def _run_call(self, key: tuple[Channel, int], frame: Frame) -> None:
        channel, stream = key
        user = self._user
        assert user is not None
        try:
            meta = decode_call(frame.meta)
            self._enter_request(meta.route, meta.request_id, is_http=False)
            args, kwargs = load_value(frame.payload)
            result = await user.call(meta.method, args, kwargs)
            payload = dump_value(result, f"the result of {user.name}.{meta.method}")
        except asyncio.CancelledError as error:
            if key in self._running and not channel.closed:  # not ours: user code raised it
                self._send_error(channel, stream, error)
        except BaseException as error:  # noqa: BLE001 - SystemExit and friends end the request, not the replica
            self._send_error(channel, stream, error)
        else:
            channel.send(Kind.RESPONSE, stream, b"", payload, load=min(self._ongoing - 1, 0xFFFF))
        finally:
            self._free_slot(key, asyncio.current_task())

    async def _run_request(self, key: tuple[Channel, int], frame: Frame, exchange: HTTPExchange) -> None:
        what = "an unreadable request"
        try:
            meta = decode_request(frame.meta)
            what = meta.method
            self._enter_request(meta.root_path or "/", meta.request_id, is_http=True)
            await self._handle_http(meta, exchange)
        except (BackPressureError, DeploymentUnavailableError) as error:
            self._answer_unavailable(exchange, error)
        except asyncio.CancelledError:
            exchange.fail()
        except BaseException as error:  # noqa: BLE001 - as above
            if not (isinstance(error, OSError) and key not in self._running):
                log_failure(f"{what} {request_context.get().route}", user_traceback(error))
            exchange.fail()
        finally:
            self._free_slot(key, asyncio.current_task())

    def _enter_request(self, route: str, request_id: str, *, is_http: bool) -> None:
        identity = self._identity
        assert identity is not None
        replica_identity.set(identity)
        request_context.set(RequestContext(route, request_id, identity.app_name, is_http))

    async def _handle_http(self, meta: RequestMeta, exchange: HTTPExchange) -> None:
        user = self._user
        assert user is not None
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
        self, exchange: HTTPExchange, error: BackPressureError | DeploymentUnavailableError
    ) -> None:
        if exchange.started:
            exchange.fail()
            return
        status = error.status_code if isinstance(error, BackPressureError) else 503
        exchange.respond(status, _PLAIN_TEXT, str(error).encode())

    def _send_error(self, channel: Channel, stream: int, error: BaseException) -> None:
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
            log_failure("call", text)
        meta = encode(ErrorMeta(kind, type(error).__qualname__, _text_of(error), text))
        payload = dump_exception(error) if kind == ErrorKind.USER else b""
        channel.send(Kind.ERROR, stream, meta, payload)

    # --- control ----------------------------------------------------------------------------------------

    def _control(self, channel: Channel, frame: Frame) -> None:
        message = decode_control(bytes(frame.payload))
        if isinstance(message, Initialize):
            if self._initialized is None:
                self._initialized = asyncio.create_task(self._initialize(message))
            answer = asyncio.create_task(self._answer_initialize(channel, frame.stream, self._initialized))
            self._tasks.add(answer)
            answer.add_done_callback(self._tasks.discard)
        else:
            assert isinstance(message, Drain)
            channel.send(Kind.RESPONSE, frame.stream)
            self.drain()

    async def _initialize(self, message: Initialize) -> None:
        spec = message.deployment
        replica_identity.set(ReplicaIdentity(spec.id.app, spec.id.name, message.replica_id))
        request_context.set(RequestContext(app_name=spec.id.app))
        self._prepare(message.application.code)
        user = await UserCode.construct(spec.definition, threads=spec.max_ongoing_requests, name=spec.id.name)
        self._identity = replica_identity.get()
        self._capacity = spec.max_ongoing_requests
        self._user = user
        self.constructed.set()
        self._offer_slots()

    async def _answer_initialize(self, channel: Channel, stream: int, initialized: asyncio.Task[None]) -> None:
        await asyncio.wait({initialized})  # raising its error here would cut the traceback for those who ask again
        error = initialized.exception()
        if error is None:
            channel.send(Kind.RESPONSE, stream)
        else:
            text = user_traceback(error)
            meta = ErrorMeta(ErrorKind.CONSTRUCTOR, type(error).__qualname__, _text_of(error), text)
            channel.send(Kind.ERROR, stream, encode(meta))

    def drain(self) -> None:
        """Take nothing new; ``drained`` is set when the last caller has hung up."""
        if self._draining:
            return
        self._draining = True
        self._waiting.clear()
        for channel in self._channels:
            channel.send(Kind.GOAWAY)
        self._check_drained()

    def _check_drained(self) -> None:
        if self._draining and not self._ongoing and all(c.sender == CONTROLLER for c in self._channels):
            self.drained.set()


def log_failure(what: str, text: str) -> None:
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


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a broken __str__ of the user's
        return f"<{type(error).__qualname__} whose __str__ raises>"
