"""The WebSocket protocol of one connection (RFC 6455 and 7692), without I/O: bytes in, messages and bytes out.

The ``websockets`` library speaks it. Added here is what it leaves to its callers: messages from their fragments, the
encoding of text, and bounds where it has none. The handshake's request has been parsed already, and more strictly
than the library would: it gets the fields that concern it.

Importing this module costs 2 MB: do it for the first client that asks for a WebSocket.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from salver.data.http.head import RequestHead
from salver.wire.messages import CloseMeta

_INVALID_DATA = 1007
_COMPRESS_BELOW_BYTES = 128 * 1024  # compressing more at once would hold up the other clients of this process
_PLAIN_TEXT = b"content-type: text/plain; charset=utf-8\r\n"
_HANDSHAKE_FIELDS = frozenset((b"connection", b"upgrade", b"origin"))
_NOT_ITS_BUSINESS = frozenset(("date", "connection", "content-length", "content-type"))

_logger = logging.getLogger("salver.websocket")
_logger.setLevel(logging.WARNING)  # the library tells of every connection at INFO


class HandshakeRefused(Exception):
    """The client's handshake is wrong: answer with this status, these header lines and this text, and close."""

    def __init__(self, status: int, block: bytes, text: bytes) -> None:
        super().__init__(status, block, text)
        self.status = status
        self.block = block
        self.text = text


class Message(NamedTuple):
    """One message of the client, whole; valid UTF-8 when it is text."""

    payload: bytes
    text: bool


class WebSocketProtocol:
    """One WebSocket, from its client's handshake.

    Args:
        head: of the client's request.
        message_bytes: the largest message that is taken, after decompression.

    Raises:
        HandshakeRefused: the request breaks the protocol.
    """

    def __init__(self, head: RequestHead, message_bytes: int) -> None:
        # Windows of 4 KiB: a connection costs tens of kilobytes, not the hundreds of zlib's defaults.
        deflate = ServerPerMessageDeflateFactory(
            server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
        )
        self._protocol = ServerProtocol(extensions=[deflate], max_size=message_bytes, logger=_logger)
        self._response = self._check(head)
        self._fragments = bytearray()
        self._text = False
        self.frames = 0
        """Frames received so far."""
        self.pings = 0
        self.over = False
        """Nothing follows what was written: the connection is to be ended when it has left."""

    def _check(self, head: RequestHead) -> Response:
        if head.chunked or head.content_length:
            raise HandshakeRefused(400, _PLAIN_TEXT, b"Failed to open a WebSocket connection: there is a body.\n")
        lines = [f"{head.method} / HTTP/{head.http_version}".encode()]
        for name, value in head.headers:
            if name in _HANDSHAKE_FIELDS or name.startswith(b"sec-websocket-"):
                lines.append(name + b": " + value)
        self._protocol.receive_data(b"\r\n".join(lines) + b"\r\n\r\n")
        events = self._protocol.events_received()
        if not events or not isinstance(events[0], Request):
            raise HandshakeRefused(400, _PLAIN_TEXT, b"Failed to open a WebSocket connection: malformed request.\n")
        response = self._protocol.accept(events[0])
        if response.status_code != 101:
            lines = [
                f"{name}: {value}\r\n".encode("latin-1")
                for name, value in response.headers.raw_items()
                if name.lower() not in _NOT_ITS_BUSINESS
            ]
            lines += [_PLAIN_TEXT, b"sec-websocket-version: 13\r\n"]
            raise HandshakeRefused(response.status_code, b"".join(lines), bytes(response.body or b""))
        return response

    def accept(self, block: bytes) -> bytes:
        """Open it. Returns the head of the 101 answer, with the header lines of ``block`` in it."""
        self._protocol.send_response(self._response)
        return self.output()[:-2] + block + b"\r\n"

    @property
    def is_open(self) -> bool:
        """Neither side has sent a close."""
        return self._protocol.state is State.OPEN

    @property
    def client_close(self) -> CloseMeta | None:
        """What the client closed with, when it did; 1005 for a close without a code."""
        close = self._protocol.close_rcvd
        return None if close is None else CloseMeta(int(close.code), close.reason)

    # --- from the client --------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes. A violation is no error here: it is answered, and all is over."""
        self._protocol.receive_data(data)
        messages: list[Message] = []
        for event in self._protocol.events_received():
            assert isinstance(event, Frame)
            self.frames += 1
            if event.opcode is Opcode.PING:
                self.pings += 1
            elif event.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT} and not self._data_frame(event, messages):
                break
        return messages

    def _data_frame(self, frame: Frame, messages: list[Message]) -> bool:
        """Whether to go on."""
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        if not frame.fin or self._fragments:
            self._fragments += frame.data  # into one buffer: a list would grow with fragments that are empty
        if not frame.fin:
            return True
        payload = bytes(self._fragments or frame.data)
        self._fragments = bytearray()
        if self._text and not _is_utf8(payload):
            self.fail(_INVALID_DATA, "a text message is not UTF-8")
            return False
        messages.append(Message(payload, self._text))
        return True

    # --- to the client ----------------------------------------------------------------------------------

    def send(self, payload: bytes, *, text: bool) -> None:
        """Send one message; nothing happens when it is not open."""
        if not self.is_open:
            return
        if len(payload) < _COMPRESS_BELOW_BYTES:
            (self._protocol.send_text if text else self._protocol.send_binary)(payload)
        else:
            frame = Frame(Opcode.TEXT if text else Opcode.BINARY, payload)
            self._protocol.writes.append(frame.serialize(mask=False))

    def ping(self) -> None:
        self._protocol.send_ping(b"")

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; it is ``over`` when the client's close has come."""
        self._protocol.send_close(code, reason)

    def fail(self, code: int, reason: str) -> None:
        """Close without waiting for the client's close; what it still sends is dropped."""
        self._protocol.fail(code, reason)

    def output(self) -> bytes:
        """What is to be written, after each of the other calls."""
        pieces = self._protocol.data_to_send()
        self.over = self.over or b"" in pieces  # the library's sign for the end of the stream
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True
