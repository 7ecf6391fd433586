"""One connection of the control API: HTTP/1.1 in front of an ASGI application.

httptools reads. Requests are answered one after the other; while one is, no more is read than has been. Everything is
bounded: how many connections there are, the size of a head, how long one may take, what of a body waits for the
application. An answer is one piece, as the routes make them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import MutableMapping
from typing import Any, cast
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from starlette.types import ASGIApp

from salver.controller.api.answers import Refusal
from salver.controller.api.exchange import Exchange, head_of_answer
from salver.data.channel import same_user

_MOST_CONNECTIONS = 256
_HEAD_BYTES = 64 * 1024
_HEAD_WITHIN_S = 10.0
"""From the start of a connection, or the end of an answer, to the end of the next head."""


class Connection(asyncio.Protocol):
    """A client of the control API.

    Args:
        application: what answers.
        connections: those of the listener, this one among them while it is open.
        tasks: in which requests are answered.
    """

    def __init__(self, application: ASGIApp, connections: set[Connection], tasks: set[asyncio.Task[None]]) -> None:
        self._application = application
        self._connections = connections
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._parser = HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._reading: Exchange | None = None  # whose body is being read
        self._answering: Exchange | None = None
        self._waiting: deque[Exchange] = deque()  # pipelined: no more than came with one read
        self._ends = False
        self.closed = asyncio.Event()

    def is_welcome(self, transport: asyncio.Transport) -> bool:
        """Whether it is listened to at all."""
        return len(self._connections) < _MOST_CONNECTIONS

    # --- what comes -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        if not self.is_welcome(stream):
            stream.abort()
            return
        self._transport = stream
        self._connections.add(self)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._connections.discard(self)
        self._transport = None
        self.closed.set()
        self._waiting.clear()
        if self._answering is not None:
            self._answering.hang_up()

    def data_received(self, data: bytes) -> None:
        if self._ends or self._transport is None:
            return
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:  # not to anything that we speak: it is answered as the request that it is, too
            self._ends = True
        except HttpParserError:
            self._refuse(Refusal(400, "This is not HTTP/1.1 as it is understood here."))
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self._refuse(Refusal(431, "The head of the request is too large."))
                return
        self.read_or_not()

    def read_or_not(self) -> None:
        """Stop or go on reading, as there is room for what is read."""
        if self._transport is not None and not self._transport.is_closing():
            if self._waiting or (self._answering is not None and self._answering.has_enough):
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _await_head(self) -> None:
        """Also what is left of the body of a request that has its answer, or empty lines, may come this long only."""
        assert self._transport is not None
        self._end_head()
        self._head_timer = self._loop.call_later(_HEAD_WITHIN_S, self._transport.abort)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # --- what httptools calls ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._in_head = True
        self._head_bytes = 0
        self._await_head()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._end_head()
        exchange = Exchange(self, self._scope(), keep_alive=self._parser.should_keep_alive())
        self._reading = exchange
        if self._answering is None:
            self._answer(exchange)
        else:
            self._waiting.append(exchange)

    def on_body(self, body: bytes) -> None:
        assert self._reading is not None
        self._reading.body_received(body)

    def on_message_complete(self) -> None:
        assert self._reading is not None
        self._reading.body_ended()

    def _scope(self) -> MutableMapping[str, Any]:
        assert self._transport is not None
        url = parse_url(self._url)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._parser.get_http_version(),
            "server": _address(self._transport, "sockname"),
            "client": _address(self._transport, "peername"),
            "scheme": "http",
            "method": self._parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(url.path.decode("ascii")),
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self._headers,
        }

    # --- what goes --------------------------------------------------------------------------------------

    def _answer(self, exchange: Exchange) -> None:
        self._answering = exchange
        task = self._loop.create_task(exchange.run(self._application))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def write(self, data: bytes) -> None:
        """To the client, if it is still there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def answered(self, *, keep_alive: bool) -> None:
        """The current request has its answer, or will never have one: on to the next."""
        self._answering = None
        if self._transport is None or self._transport.is_closing():
            return
        if not keep_alive or self._ends:
            self._transport.close()
        elif self._waiting:
            self._answer(self._waiting.popleft())
            self.read_or_not()
        else:
            self._await_head()
            self.read_or_not()

    def _refuse(self, refusal: Refusal) -> None:
        """What cannot be read: nothing after it can, either."""
        assert self._transport is not None
        self._ends = True
        answer = refusal.answer()
        self.write(head_of_answer(answer.status_code, answer.raw_headers, keep_alive=False) + bytes(answer.body))
        self._transport.close()

    def end(self) -> None:
        """Take no more requests; close now, or once the current one has its answer."""
        self._ends = True
        self._waiting.clear()
        if self._answering is None and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class SameUserConnection(Connection):
    """Refuses peers that run as somebody else."""

    def is_welcome(self, transport: asyncio.Transport) -> bool:
        return same_user(transport) and super().is_welcome(transport)


def _address(transport: asyncio.Transport, end: str) -> tuple[str, int] | None:
    """Host and port of one end; None for a Unix socket."""
    address: object = transport.get_extra_info(end)
    return cast("tuple[str, int]", address[:2]) if isinstance(address, tuple) else None
