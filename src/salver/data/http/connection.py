"""One client's HTTP/1.1 connection at the proxy.

Requests are answered in the order in which they came; while one is being answered, what else has already arrived is
taken in, up to a bound, and reading pauses. All waiting has a deadline (``client_deadline``), which the proxy's sweep
checks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, cast

from salver.data.http.client_deadline import NEVER, ClientDeadline
from salver.data.http.client_socket import address, is_connected, reset
from salver.data.http.exchange import CLIENT_LEFT, RequestExchange
from salver.data.http.joined_writes import JOIN_BELOW_BYTES, JoinedWrites
from salver.data.http.parser import BadRequest, HTTPLimits, RequestHead, RequestParser
from salver.data.http.problem import BAD_REQUEST, Problem, too_many_connections
from salver.data.http.response import BODYLESS, response_head, stream_framing
from salver.wire.frames import Buffer

_WRITE_BUFFER_BYTES = 64 * 1024
_PIPELINED_AT_MOST = 128


class Handler(Protocol):
    """What a connection needs of its proxy."""

    date_line: bytes
    draining: bool
    scheme: str

    def request_ready(self, exchange: RequestExchange) -> None:
        """Route this request: it is complete, or large enough to be passed on while it still comes in."""
        ...

    def websocket_requested(self, connection: HTTPConnection, exchange: RequestExchange) -> None:
        """Take the connection over: ``exchange`` asks for a WebSocket."""
        ...

    def connection_opened(self, connection: HTTPConnection) -> None: ...

    def connection_closed(self, connection: HTTPConnection) -> None: ...

    def reading_paused(self, connection: HTTPConnection) -> None:
        """Nobody reads from it while its request is worked on: look whether the client is still there."""
        ...


class HTTPConnection(asyncio.Protocol):
    """The server side of one connection, from accept to close."""

    __slots__ = (
        "_current",
        "_deadline",
        "_handler",
        "_joined",
        "_limits",
        "_lingering",
        "_loop",
        "_parser",
        "_paused_writing",
        "_pipeline",
        "_receiving",
        "_refused",
        "_served",
        "_transport",
        "client",
        "scheme",
        "server",
    )

    def __init__(self, handler: Handler, limits: HTTPLimits) -> None:
        self._handler = handler
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(self, limits)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._current: RequestExchange | None = None
        """The request that is being answered, or the next one to be."""
        self._receiving: RequestExchange | None = None
        """The request whose bytes are coming in."""
        self._pipeline: deque[RequestExchange] = deque()
        self._refused: BadRequest | None = None
        """What is wrong with the request behind those of the pipeline."""
        self._joined: JoinedWrites = cast(JoinedWrites, None)
        self._paused_writing = False
        self._lingering = False
        self._served = 0
        self._deadline = ClientDeadline(limits, self._loop)
        self.scheme = handler.scheme
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None

    # --- asyncio.Protocol -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._joined = JoinedWrites(self._transport, self._loop)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        self.client = address(transport.get_extra_info("peername"))
        self.server = address(transport.get_extra_info("sockname"))
        self._deadline.of_head()
        self._handler.connection_opened(self)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self._current is None and not self._deadline.head_begun:
            self._deadline.head_begun = True
            self._deadline.of_head()
        try:
            self._parser.feed(data)
        except BadRequest as error:
            self._refuse(error)

    def eof_received(self) -> bool:
        return False  # a client that stops sending is a client that left: every common one keeps its side open

    def pause_writing(self) -> None:
        self._paused_writing = True
        self._deadline.of_reader(self._transport)

    def resume_writing(self) -> None:
        self._paused_writing = False
        if self._current is None:
            self._await_request()
            return
        self._deadline.at = NEVER
        if self._receiving is not None:
            self._renew_body_deadline()
        self._current.client_caught_up()

    def _await_request(self) -> None:
        self._deadline.of_next_request(begun=not self._parser.between_requests)

    def connection_lost(self, exc: Exception | None) -> None:
        self._handler.connection_closed(self)
        current, self._current = self._current, None
        self._pipeline.clear()
        self._receiving = None
        if current is not None:
            current.client_gone()

    # --- RequestSink: what the parser found -------------------------------------------------------------

    def head_received(self, head: RequestHead) -> None:
        exchange = self._receiving = RequestExchange(self, head)
        if head.chunked or head.content_length:
            self._renew_body_deadline()
        if self._current is None:
            self._current = exchange
            self._begin_if_large(exchange)
        elif len(self._pipeline) >= _PIPELINED_AT_MOST:
            self._cut(400)
        else:
            self._pipeline.append(exchange)
            self.pause_reading()

    def body_received(self, chunk: bytes) -> None:
        if self._receiving is not None:
            self._receiving.body_received(chunk)
            if self._deadline.has_come(len(chunk)):
                self._renew_body_deadline()

    def _renew_body_deadline(self) -> None:
        """While the client is late with reading, that counts."""
        if not self._paused_writing:
            self._deadline.of_body(reading=self._transport.is_reading())

    def request_complete(self) -> None:
        exchange = self._receiving
        if exchange is None:
            return
        self._receiving = None
        if not self._paused_writing:
            self._deadline.at = NEVER
        exchange.body.complete = True
        if exchange is self._current:
            self._begin_or_continue(exchange)

    def _begin_if_large(self, exchange: RequestExchange) -> None:
        if exchange.body.streams:
            exchange.begun = True
            if exchange.head.expect_continue:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._hand_on(exchange)
        elif exchange.head.expect_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _begin_or_continue(self, exchange: RequestExchange) -> None:
        if exchange.begun:
            exchange.pump_body()
        else:
            exchange.begun = True
            self._hand_on(exchange)

    def _hand_on(self, exchange: RequestExchange) -> None:
        if exchange.head.upgrade == b"websocket":
            self._handler.websocket_requested(self, exchange)
        else:
            self._handler.request_ready(exchange)

    def hand_over(self) -> asyncio.Transport:
        """Give the transport to another protocol; what has come after the current request is dropped."""
        self._parser.close()
        self._current = self._receiving = None
        self._pipeline.clear()
        self._handler.connection_closed(self)
        return self._transport

    # --- what the exchange answers ----------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether the client keeps up with what was written."""
        return not self._paused_writing

    def pause_reading(self) -> None:
        self._transport.pause_reading()
        self._handler.reading_paused(self)
        if self._receiving is not None:
            self._renew_body_deadline()

    def resume_reading(self) -> None:
        if not self._pipeline and not self._transport.is_closing():
            self._transport.resume_reading()
            if self._receiving is not None:
                self._renew_body_deadline()

    def write_whole(self, exchange: RequestExchange, status: int, block: bytes, body: Buffer, declared: int) -> None:
        """The complete response of the current request."""
        close = self._closes_after(exchange)
        length = len(body)
        if status in BODYLESS:
            framing = body = b""
        else:
            if exchange.head.method == "HEAD":
                length = declared if declared >= 0 else length
                body = b""
            framing = b"content-length: %d\r\n" % length
        head = self._head(exchange, status, block, framing, close=close)
        if len(body) < JOIN_BELOW_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        self._answered(exchange, close=close)

    def write_head(self, exchange: RequestExchange, status: int, block: bytes, declared: int) -> bool:
        """The head of a streamed response; returns whether the body goes out in chunks."""
        framing = stream_framing(status, declared, exchange.head.http_version)
        exchange.ends_with_connection = framing.ends_with_connection
        exchange.closes = self._closes_after(exchange) or framing.ends_with_connection
        self._joined.add(self._head(exchange, status, block, framing.line, close=exchange.closes))
        return framing.chunked and exchange.head.method != "HEAD"

    def write_piece(self, data: Buffer) -> None:
        """Part of a streamed response; pieces of one turn of the loop leave together."""
        self._joined.add(data)

    def stream_ended(self, exchange: RequestExchange) -> None:
        self._joined.flush()
        self._answered(exchange, close=exchange.closes or not exchange.body.complete)

    def abort(self) -> None:
        """Cut the connection: the client must not take what it has for the whole."""
        self._parser.close()
        self._joined.flush()
        if self._current is None:  # nothing is being said: no goodbye, either
            self._transport.abort()
        elif self._current.ends_with_connection:
            reset(self._transport)  # an end would look like the end of the body
        self._current = None
        self._deadline.of_reader(self._transport)
        self._transport.close()

    def _head(self, exchange: RequestExchange, status: int, block: bytes, framing: bytes, *, close: bool) -> bytes:
        version = exchange.head.http_version
        return response_head(
            status, block, framing, self._handler.date_line, exchange.extra_lines, version, close=close
        )

    def _closes_after(self, exchange: RequestExchange) -> bool:
        self._served += 1
        return (
            not exchange.head.keep_alive
            or not exchange.body.complete
            or self._handler.draining
            or self._served >= self._limits.keep_alive_requests
        )

    def _answered(self, exchange: RequestExchange, *, close: bool) -> None:
        if exchange is not self._current:
            return
        self._current = None
        if close:
            self._parser.close()  # what is in the same packet as the rest of the body is no request
            self._receiving = None
            self._deadline.of_reader(self._transport)
            if exchange.body.complete:
                self._transport.close()
            else:
                self._linger()
            return
        if self._pipeline:
            # Not from here: an answer made at once would recurse as deep as the client pipelines.
            self._loop.call_soon(self._next_of_pipeline)
            return
        if self._refused is not None:
            self._turn_down(self._refused)
            return
        if not self._transport.is_reading():  # paused for a body that the application did not care to read
            self._transport.resume_reading()
        if not self._paused_writing:
            self._await_request()

    def _linger(self) -> None:
        """The answer came before the whole request did. Closing now would reset the connection over the unread rest,
        and the client might never see the answer: end our side, and discard what still comes, for a while.
        """
        self._lingering = True
        self._deadline.of_goodbye()
        if self._transport.can_write_eof():  # TLS cannot end one side: there the answer has a length or 2 s to arrive
            self._transport.write_eof()
        self._transport.resume_reading()

    def _next_of_pipeline(self) -> None:
        if self._current is not None or not self._pipeline or self._transport.is_closing():
            return
        exchange = self._current = self._pipeline.popleft()
        self.resume_reading()
        if exchange.body.complete:
            self._begin_or_continue(exchange)
        else:
            self._begin_if_large(exchange)

    # --- ends -------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When ``timed_out`` is to be called, on the loop's clock."""
        return self._deadline.at

    @property
    def idle(self) -> bool:
        """No request is being answered or coming in."""
        return self._current is None and self._parser.between_requests

    def _refuse(self, error: BadRequest) -> None:
        """Malformed or over a limit: say so when everything before it has been answered, and close."""
        current, bad = self._current, self._receiving
        if current is None:
            self._turn_down(error)
        elif current is not bad:
            if bad is not None:  # its body is
                self._pipeline.pop()
                error.headers = bad.head.headers
                self._receiving = None
            self._refused = error
            self.pause_reading()
        elif current.response_started:
            self._cut(error.status)
        else:
            self._turn_down(error)
            self._current = self._receiving = None
            current.client_gone(error.status)

    def _turn_down(self, error: BadRequest) -> None:
        self._tell_off(Problem(error.status, BAD_REQUEST, error.message), error)
        self._linger()

    def _cut(self, status: int) -> None:
        """Break off what is being said."""
        current = self._current
        self.abort()
        self._receiving = None
        if current is not None:
            current.client_gone(status)

    def _tell_off(self, problem: Problem, refused: BadRequest | None = None) -> None:
        """Answer a request that will not be read to its end; of one whose head was ``refused``, little is known."""
        request = self._receiving
        request_id, lines = ("", b"") if request is None else (request.request_id, request.extra_lines)
        block, body = problem.render(refused if request is None else request.head, request_id)
        body += b"\n"
        framing = b"content-length: %d\r\n" % len(body)
        head = response_head(problem.status, block, framing, self._handler.date_line, lines, "1.1", close=True)
        bodyless = request is not None and request.head.method == "HEAD"
        self._transport.write(head if bodyless else head + body)

    def turn_away(self) -> None:
        """There are too many connections: say so and close, without waiting for what the client has to say."""
        self._lingering = True
        self._tell_off(too_many_connections())
        self._deadline.of_goodbye()
        self._transport.close()

    def look_for_client(self) -> bool:
        """End the request of a client that hung up, which nobody else notices while reading is paused.

        Returns:
            Whether to look again later.
        """
        if self._transport.is_reading() or self._transport.is_closing():
            return False
        if is_connected(self._transport):
            return True
        self._transport.abort()
        return False

    def timed_out(self) -> None:
        """The deadline passed. A client that was sending gets 408; an idle one is just closed; one that reads,
        however slowly, gets more time, and one that has stopped reading is cut off.
        """
        stalled = self._paused_writing or self._transport.is_closing()
        if stalled and self._deadline.has_read(self._transport):
            self._deadline.of_reader(self._transport)
            return
        current = self._current
        sending = self._receiving is not None or not self._parser.between_requests
        sending = sending and not self._lingering
        unanswered = current is None or (current is self._receiving and not current.response_started)
        if sending and unanswered and not stalled:
            self._tell_off(Problem(408, BAD_REQUEST, "The request did not arrive in time."))
        self._current = None
        self._receiving = None
        (self._transport.abort if stalled else self._transport.close)()
        if current is not None:
            current.client_gone(408 if sending and unanswered else CLIENT_LEFT)

    def close_if_idle(self) -> None:
        says_nothing = self.idle and not self._served and not self._deadline.head_begun and not self._lingering
        if says_nothing and self._deadline.of_newcomer():
            return  # its request may be on its way, and nobody else will take it
        if self.idle or self._lingering:
            self._deadline.of_goodbye()  # for TLS waits for one, which an idle client may never say
            self._transport.close()
