"""HTTP and WebSockets without sockets: the ingress as an ASGI application, for tests in one process.

Requests take the same way as from a proxy, with the same routing, deadlines and answers; only that the client is an
ASGI server or a test client. It may live on another event loop than the ingress: messages cross over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from salver.data.http.asgi_client import ASGIClient, ResponseCut, Send
from salver.data.http.exchange import RequestExchange
from salver.data.http.fields import read_fields
from salver.data.http.head import RequestHead
from salver.data.http.ingress import Ingress
from salver.data.http.limits import BadRequest, HTTPLimits
from salver.data.http.problem import BAD_REQUEST, Problem
from salver.data.replica.asgi import Message, Scope

Receive = Callable[[], Awaitable[Message]]
T = TypeVar("T")

_VANISHED = 1006


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
        """Serve one call; ``lifespan`` is acknowledged, since applications have their own in their replicas.

        Raises:
            ResponseCut: the application failed in the middle of its answer.
        """
        if scope["type"] == "lifespan":
            await _acknowledge_lifespan(receive, send)
            return
        serve = self._serve if scope["type"] == "http" else self._serve_websocket
        here = asyncio.get_running_loop()
        if here is self._loop:
            await serve(scope, receive, send)
            return
        crossing = _Crossing(here)
        served = serve(scope, crossing.receive(receive), crossing.send(send))
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(served, self._loop))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = ASGIClient(scope)
        first = await receive()
        try:
            exchange = RequestExchange(client, _head(scope, first, self._limits))
        except BadRequest as error:
            await _refuse(error, send)
            return
        reading = self._read(exchange, client, first, receive)
        await _both(reading, client, send, exchange.client_gone)

    async def _read(self, exchange: RequestExchange, client: ASGIClient, message: Message, receive: Receive) -> None:
        """The request's body, then the client's departure."""
        if exchange.body.streams:
            self._ingress.request_ready(exchange)
        size = 0
        while message["type"] == "http.request":
            if message.get("body"):
                size += len(message["body"])
                if size > self._limits.body:
                    self._too_large(exchange, client)
                    return
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
            await receive()  # which tells that the client is gone
        exchange.client_gone()

    def _too_large(self, exchange: RequestExchange, client: ASGIClient) -> None:
        if exchange.response_started:
            client.abort()
        else:
            problem = Problem(413, BAD_REQUEST, f"the body has more than {self._limits.body} bytes")
            block, body = problem.render(exchange.head, exchange.request_id)
            client.write_whole(exchange, 413, block, body, -1)
        exchange.client_gone(413)

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        from salver.data.http.asgi_websocket_client import ASGIWebSocketClient  # few tests need it

        try:
            head = _head(scope, await receive(), self._limits)
        except BadRequest:
            await send({"type": "websocket.close", "code": 1000, "reason": ""})
            return
        client = ASGIWebSocketClient(scope, head, self._limits.websocket_message)
        exchange = client.exchange
        self._ingress.request_ready(exchange)
        await _both(client.read(receive), client, send, lambda: exchange.client_closed(_VANISHED, ""))


async def _both(reading: Coroutine[Any, Any, None], client: ASGIClient, send: Send, gone: Callable[[], None]) -> None:
    """Read what the client sends and pass on what it is answered, until either is over."""
    reader = asyncio.create_task(reading)
    reader.add_done_callback(lambda _: client.closed())  # also when ``receive`` raised
    try:
        await client.send_all(send)
    except ResponseCut:
        raise
    except OSError:
        pass  # the client is gone
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        gone()


async def _refuse(error: BadRequest, send: Send) -> None:
    block, body = Problem(error.status, BAD_REQUEST, error.message).render(None)
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in block.splitlines())]
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


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
    names = {name for name, _ in headers}
    if b"host" not in names:
        headers.append((b"host", b"localhost"))
    if scope.get("subprotocols") and b"sec-websocket-protocol" not in names:
        headers.append((b"sec-websocket-protocol", ", ".join(scope["subprotocols"]).encode()))
    facts = read_fields(headers, scope.get("http_version") == "1.0", limits.body)
    whole = not first.get("more_body", False)
    length = facts.content_length if not whole else len(first.get("body", b""))
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return RequestHead(
        method=scope.get("method", "GET"),
        target=path + b"?" + query if query else path,
        path=path,
        query=query,
        headers=headers,
        http_version=scope.get("http_version", "1.1"),
        keep_alive=True,
        content_length=length,
        chunked=length is None,
        expect_continue=False,
        upgrade=b"",
        request_id=facts.request_id,
        host=facts.host or b"",
        asks=facts.asks,
    )
