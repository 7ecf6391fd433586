"""HTTP without sockets: the ingress as an ASGI application, for tests in one process.

Requests take the same way as from a proxy, with the same routing, deadlines and answers; only that the client is an
ASGI server or a test client. It may live on another event loop than the ingress: messages cross over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from salver.data.asgi import Message, Scope
from salver.data.http_fields import read_fields
from salver.data.http_head import RequestHead
from salver.data.http_limits import BadRequest, HTTPLimits
from salver.data.ingress import Ingress
from salver.data.problem import BAD_REQUEST, Problem
from salver.data.request_exchange import RequestExchange

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")

_HIGH_WATER_BYTES = 64 * 1024


class ResponseCut(ConnectionError):
    """The application failed in the middle of its answer: what has come is not the whole."""


class ASGIIngress:
    """An ASGI application that reaches every application of an instance by its route prefix.

    Args:
        ingress: routes the requests.
        loop: that of ``ingress``.
        limits: of what a client may send.
    """

    def __init__(self, ingress: Ingress, loop: asyncio.AbstractEventLoop, limits: HTTPLimits) -> None:
        self._ingress = ingress
        self._loop = loop
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; ``lifespan`` is acknowledged, since applications have their own in their replicas."""
        if scope["type"] == "lifespan":
            await _acknowledge_lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"local testing serves HTTP, not {scope['type']!r}: use `salver run` for that")
        here = asyncio.get_running_loop()
        if here is self._loop:
            await self._serve(scope, receive, send)
            return
        crossing = _Crossing(here)
        served = self._serve(scope, crossing.receive(receive), crossing.send(send))
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(served, self._loop))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = _Client(scope)
        first = await receive()
        try:
            exchange = RequestExchange(client, _head(scope, first, self._limits))
        except BadRequest as error:
            block, body = Problem(error.status, BAD_REQUEST, error.message).render(None)
            client.say(_start(error.status, block, len(body)), {"type": "http.response.body", "body": body})
            await client.send_all(send)
            return
        reading = asyncio.create_task(self._read(exchange, client, first, receive))
        try:
            await client.send_all(send)
        except ResponseCut:
            raise
        except OSError:
            pass  # the client is gone
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            exchange.client_gone()

    async def _read(self, exchange: RequestExchange, client: _Client, message: Message, receive: Receive) -> None:
        """The request's body, then the client's departure."""
        if exchange.body.streams:
            self._ingress.request_ready(exchange)
        while message["type"] == "http.request":
            if message.get("body"):
                exchange.body_received(message["body"])
            if not message.get("more_body", False):
                break
            await client.may_read.wait()
            message = await receive()
        if message["type"] == "http.request":
            exchange.body.complete = True
            if exchange.body.streams:
                exchange.pump_body()
            else:
                self._ingress.request_ready(exchange)
            message = await receive()
        exchange.client_gone()
        client.closed()


class _Client:
    """The ``Client`` of one request: what is written waits here until the ASGI side has taken it."""

    def __init__(self, scope: Scope) -> None:
        self.scheme: str = scope.get("scheme", "http")
        self.client: tuple[str, int] | None = _pair(scope.get("client"))
        self.server: tuple[str, int] | None = _pair(scope.get("server"))
        self.may_read = asyncio.Event()
        self.may_read.set()
        self._out: deque[Message] = deque()
        self._waiting = 0
        self._more = asyncio.Event()
        self._ended = False
        self._broken = False
        self._exchange: RequestExchange | None = None

    @property
    def writable(self) -> bool:
        return self._waiting < _HIGH_WATER_BYTES

    def pause_reading(self) -> None:
        self.may_read.clear()

    def resume_reading(self) -> None:
        self.may_read.set()

    def write_whole(self, exchange: RequestExchange, status: int, block: bytes, body: bytes, declared: int) -> None:
        if exchange.head.method == "HEAD":
            body, length = b"", declared if declared >= 0 else len(body)
        else:
            length = len(body)
        self.say(_start(status, block + exchange.extra_lines, length), {"type": "http.response.body", "body": body})

    def write_head(self, exchange: RequestExchange, status: int, block: bytes, declared: int) -> bool:
        self._exchange = exchange
        self.say(_start(status, block + exchange.extra_lines, declared))
        return False

    def write_piece(self, data: bytes) -> None:
        self._waiting += len(data)
        self.say({"type": "http.response.body", "body": data, "more_body": True})

    def stream_ended(self, exchange: RequestExchange) -> None:
        self.say({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        self._broken = True
        self.closed()

    def say(self, *messages: Message) -> None:
        self._out.extend(messages)
        self._more.set()

    def closed(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._more.set()

    async def send_all(self, send: Send) -> None:
        """Pass everything on until the response is complete. Raises ResponseCut when it never will be."""
        while True:
            while self._out:
                message = self._out.popleft()
                await send(message)
                if message["type"] == "http.response.body":
                    self._waiting = max(self._waiting - len(message["body"]), 0)
                    if not message.get("more_body", False):
                        return
                if self._exchange is not None and self.writable:
                    self._exchange.client_caught_up()
            if self._broken:
                raise ResponseCut("the response was cut: the application failed in the middle of it")
            if self._ended:
                return
            self._more.clear()
            await self._more.wait()


class _Crossing:
    """ASGI callables of one loop, for use on another.

    Args:
        home: the loop that they live on.
    """

    def __init__(self, home: asyncio.AbstractEventLoop) -> None:
        self._home = home

    def receive(self, receive: Receive) -> Receive:
        async def from_elsewhere() -> Message:
            return await self._at_home(_as_coroutine(receive()))

        return from_elsewhere

    def send(self, send: Send) -> Send:
        async def from_elsewhere(message: Message) -> None:
            await self._at_home(_as_coroutine(send(message)))

        return from_elsewhere

    async def _at_home(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._home))


async def _as_coroutine(work: Awaitable[T]) -> T:
    return await work


async def _acknowledge_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _head(scope: Scope, first: Message, limits: HTTPLimits) -> RequestHead:
    """The request's head, held to the same rules as one that came in bytes. Raises BadRequest."""
    headers = [(bytes(name).lower(), bytes(value)) for name, value in scope["headers"]]
    if all(name != b"host" for name, _ in headers):
        headers.append((b"host", b"localhost"))
    facts = read_fields(headers, scope.get("http_version") == "1.0", limits.body)
    whole = not first.get("more_body", False)
    length = facts.content_length if not whole else len(first.get("body", b""))
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return RequestHead(
        scope["method"],
        path + b"?" + query if query else path,
        path,
        query,
        headers,
        scope.get("http_version", "1.1"),
        True,
        length,
        length is None,
        False,
        b"",
        facts.request_id,
        facts.host or b"",
        facts.asks,
    )


def _start(status: int, block: bytes, length: int) -> Message:
    lines = [line.partition(b": ") for line in block.split(b"\r\n") if line]
    headers = [(name.lower(), value) for name, _, value in lines]
    if length >= 0:
        headers.append((b"content-length", b"%d" % length))
    return {"type": "http.response.start", "status": status, "headers": headers}


def _pair(address: Any) -> tuple[str, int] | None:
    return None if address is None else (str(address[0]), int(address[1] or 0))
