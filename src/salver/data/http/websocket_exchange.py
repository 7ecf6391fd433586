"""One WebSocket on its way through the ingress: from the client's connection to a replica and back.

Until a replica accepts, it is a request like any other: routed, queued, given a deadline, answered by HTTP when it is
refused. An open one ends with a close code:

* what the application, or the client, closes with, to the other;
* 1011 when user code raised or its replica died; 1012 when the replica was told to leave and its time is up;
* 1013 when the application is overloaded or unavailable. That is so even before the handshake is answered: it is
  accepted in order to be closed, since browsers do not tell a page the HTTP status of a handshake that failed, so a
  page could not know that it should come again later.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from salver.data.channel import Channel
from salver.data.http.exchange import CLIENT_LEFT, Client, RequestExchange
from salver.data.http.problem import BAD_REQUEST, OVERLOADED, REPLICA_DIED, UNAVAILABLE, Problem
from salver.data.routing.replica_link import ReplicaLink
from salver.wire.frames import END, TEXT, Frame, Kind
from salver.wire.messages import (
    MESSAGE_OVERHEAD_BYTES,
    CloseMeta,
    decode_close,
    decode_credit,
    decode_response,
    encode,
)

_INTERNAL_ERROR = 1011
_RESTART = 1012
_TRY_AGAIN_LATER = 1013
_ABNORMAL = 1006
_REASON_AT_MOST = 123  # a control frame has 125 bytes, two of them are the code


class WebSocketClient(Client, Protocol):
    """What a WebSocket needs of the connection that it came by (``websocket_connection.WebSocketConnection``)."""

    @property
    def draining(self) -> bool:
        """The proxy is being stopped."""
        ...

    def open(self, block: bytes) -> None:
        """Accept the handshake, with these header lines besides those of the protocol."""
        ...

    def write_message(self, payload: bytes, *, text: bool) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


class WebSocketExchange(RequestExchange):
    """An ``Exchange`` for the router, fed by the client's WebSocket."""

    __slots__ = ("_credit", "_held", "_left", "_opened", "_socket")

    def __init__(self, socket: WebSocketClient, request: RequestExchange) -> None:
        super().__init__(socket, request.head)
        self.request_id = request.request_id
        self._socket = socket
        self._opened = False
        self._left = False
        """The client has closed or vanished."""
        self._held: deque[tuple[bytes, int]] = deque()
        """Messages that wait for credit."""
        self._credit = 0

    # --- from the client --------------------------------------------------------------------------------

    def message_received(self, payload: bytes, *, text: bool) -> None:
        """A whole message; the connection is paused until the replica has room for another one."""
        link = self._link
        if link is None or link.channel is None:
            return  # the application has ended, and the client will see that
        self._held.append((payload, TEXT if text else 0))
        self._pump(link.channel)
        if self._credit <= 0:
            self._socket.pause_reading()

    def _pump(self, channel: Channel) -> None:
        while self._held and self._credit > 0:
            self._send_message(channel)

    def _send_message(self, channel: Channel) -> None:
        payload, flags = self._held.popleft()
        self._credit -= len(payload) + MESSAGE_OVERHEAD_BYTES
        channel.send(Kind.BODY, self._stream, b"", payload, flags)

    def client_spoke_early(self) -> None:
        """It must wait for the answer (RFC 6455, section 4.1): what it sends before is nobody's to interpret."""
        self._stop()
        super()._broken(Problem(400, BAD_REQUEST, "The client sent more before its handshake was answered."))

    def client_closed(self, code: int, reason: str) -> None:
        """The client sent its close, or is gone (1006). What it sent before still arrives, whatever the credit."""
        if not self._opened:
            self._stop()
        elif self._link is not None and self._link.channel is not None:
            channel = self._link.channel
            while self._held:
                self._send_message(channel)
            channel.send(Kind.BODY, self._stream, encode(CloseMeta(code, reason)), b"", END)
        self._left = True
        self._ended(CLIENT_LEFT if code == _ABNORMAL else 101)

    # --- Exchange ---------------------------------------------------------------------------------------

    @property
    def may_go_ahead(self) -> bool:
        return False  # it stays for hours: no work of a few milliseconds

    @property
    def retryable(self) -> bool:
        return not self._opened and not self.response_started

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        self._link = link
        self._stream = stream
        self._credit = 0
        assert link.channel is not None
        # No deadline: it is for the handshake, and kept here; what the application calls later has its own time.
        link.channel.send(Kind.REQUEST, stream, encode(self._request_meta(0.0)))

    def frame_received(self, frame: Frame) -> None:
        if self._left:
            return
        kind = frame.kind
        if kind == Kind.CREDIT:
            self._credit += decode_credit(frame.meta)
            self._granted()
        elif kind == Kind.DATA and self._opened:
            self._data_frame(frame)
        elif kind == Kind.HEAD and decode_response(frame.meta).status == 101:
            self._open(decode_response(frame.meta).header_block)
        else:
            super().frame_received(frame)

    def _granted(self) -> None:
        if self._link is not None and self._link.channel is not None:
            self._pump(self._link.channel)
            if self._opened and self._credit > 0:
                self._socket.resume_reading()

    def _open(self, block: bytes) -> None:
        self._opened = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._socket.open(block)

    def _data_frame(self, frame: Frame) -> None:
        if frame.flags & END:
            close = decode_close(frame.meta)
            self._finish(close.code, close.reason, 101)
            return
        payload = bytes(frame.payload)
        self._socket.write_message(payload, text=bool(frame.flags & TEXT))
        self._owed += len(payload) + MESSAGE_OVERHEAD_BYTES
        if self._socket.writable:
            self.client_caught_up()

    def replica_lost(self, replica_id: str) -> None:
        if self._left:
            return
        link = self._link
        if self._opened and link is not None and link.told_to_leave:
            self._finish(_RESTART, "The replica was replaced.", 503)
        else:
            super().replica_lost(replica_id)

    def _broken(self, problem: Problem) -> None:
        later = problem.kind in {OVERLOADED, UNAVAILABLE}
        if not self._opened:
            if not later or self._socket.draining:
                super()._broken(problem)
                return
            self._open(b"")
        reason = problem.text if later or problem.kind == REPLICA_DIED else ""
        self._finish(_TRY_AGAIN_LATER if later else _INTERNAL_ERROR, reason, problem.status)

    def _finish(self, code: int, reason: str, status: int) -> None:
        self._held.clear()
        self._ended(status)
        self._socket.close(code, reason.encode()[:_REASON_AT_MOST].decode(errors="ignore"))
