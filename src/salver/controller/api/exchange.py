"""One request of the control API and its answer, as an ASGI application sees them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, MutableMapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol

from starlette.types import ASGIApp, Message

logger = logging.getLogger("salver.controller")

_ENOUGH_BYTES = 64 * 1024
"""Of a body that the application has not taken yet: then no more is read."""


class Answerer(Protocol):
    """The connection."""

    def write(self, data: bytes) -> None: ...

    def read_or_not(self) -> None: ...

    def answered(self, *, keep_alive: bool) -> None: ...


class Exchange:
    """A request whose head has been read.

    Args:
        connection: where it came from.
        scope: its head, as ASGI has it.
        keep_alive: whether another request may come after it.
    """

    def __init__(self, connection: Answerer, scope: MutableMapping[str, Any], *, keep_alive: bool) -> None:
        self._connection = connection
        self._scope = scope
        self._keep_alive = keep_alive
        self._awaits_continue = (b"expect", b"100-continue") in (
            (name, value.lower()) for name, value in scope["headers"]
        )
        self._body = bytearray()
        self._body_ended = False
        self._told_end = False
        self._over = False
        self._changed = asyncio.Event()
        self._head = b""

    async def run(self, application: ASGIApp) -> None:
        """Have it answered."""
        try:
            await application(self._scope, self._receive, self._send)
        except Exception:
            logger.exception("%s %s failed", self._scope["method"], self._scope["path"])
        finally:
            if not self._over:
                self._end(keep_alive=False)

    # --- its body ---------------------------------------------------------------------------------------

    def body_received(self, chunk: bytes) -> None:
        if not self._over:  # else nobody wants it any more
            self._body += chunk
            self._changed.set()

    def body_ended(self) -> None:
        self._body_ended = True
        self._changed.set()

    @property
    def has_enough(self) -> bool:
        """Whether the application has to take some first."""
        return len(self._body) > _ENOUGH_BYTES

    def hang_up(self) -> None:
        """The client has left."""
        self._over = True
        self._changed.set()

    async def _receive(self) -> Message:
        if self._awaits_continue and not self._body and not self._over:
            self._awaits_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._body or self._over or (self._body_ended and not self._told_end)):
            self._changed.clear()
            await self._changed.wait()
        if self._over:
            return {"type": "http.disconnect"}
        message = {"type": "http.request", "body": bytes(self._body), "more_body": not self._body_ended}
        self._told_end = self._body_ended
        self._body.clear()
        self._connection.read_or_not()
        return message

    # --- its answer -------------------------------------------------------------------------------------

    async def _send(self, message: Message) -> None:
        if self._over:
            return
        if message["type"] == "http.response.start":
            self._head = head_of_answer(message["status"], message["headers"], keep_alive=self._keep_alive)
            return
        assert not message.get("more_body", False), "answers of the control API are one piece"
        self._connection.write(self._head if self._scope["method"] == "HEAD" else self._head + message["body"])
        self._end(keep_alive=self._keep_alive)

    def _end(self, *, keep_alive: bool) -> None:
        self._over = True
        self._body.clear()
        self._changed.set()
        self._connection.answered(keep_alive=keep_alive)


def head_of_answer(status: int, headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
    """Status line and headers."""
    lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%s: %s" % header for header in headers]
    lines.append(b"date: " + formatdate(usegmt=True).encode())
    if not keep_alive:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"
