"""What routes answer with, and how they read what was sent to them.

Everything that goes wrong is ``application/problem+json`` (RFC 9457) with one sentence that says what to do; a route
raises ``Refusal`` for it. Bodies are read up to a bound, in bounded time.
"""

from __future__ import annotations

import asyncio
import math
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

JSON_BYTES = 1024 * 1024
"""Largest body of a request in JSON."""

_BODY_WITHIN_S = 30.0
_WAIT_AT_MOST_S = 60.0
_T = TypeVar("_T")


class Refusal(Exception):
    """The answer to a request that is not carried out.

    Args:
        status: of the answer.
        detail: one sentence for whoever asked.
        headers: of the answer, beside the usual ones.
        more: members of the answer beside the usual ones.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        headers: dict[str, str] | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.more = more or {}

    def answer(self) -> Response:
        body = {
            **self.more,
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return Response(
            msgspec.json.encode(body), self.status, headers=self.headers, media_type="application/problem+json"
        )


def json_answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def read_body(request: Request, most_bytes: int, within_s: float = _BODY_WITHIN_S) -> bytes:
    """The whole body. Raises Refusal when it is larger, or did not come in time, or the client has left."""
    received = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                if len(received) + len(chunk) > most_bytes:
                    raise Refusal(413, f"The body has more than {most_bytes} bytes.")
                received += chunk
    except TimeoutError:
        raise Refusal(408, f"The body did not come within {within_s:g} s.") from None
    except ClientDisconnect:
        raise Refusal(400, "The body is not complete.") from None
    return bytes(received)


async def read_json(request: Request, expected: type[_T]) -> _T:
    """The body as one record. Raises Refusal."""
    try:
        return msgspec.json.decode(await read_body(request, JSON_BYTES), type=expected)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"The body is not what is expected here: {error}.") from None


def asked_wait_s(request: Request) -> float:
    """``?wait_s=``, at most 60. Raises Refusal when it is no number of seconds."""
    asked = request.query_params.get("wait_s", "0")
    try:
        seconds = float(asked)
    except ValueError:
        seconds = math.nan
    if math.isnan(seconds):
        raise Refusal(400, "wait_s is not a number of seconds.")
    return min(max(seconds, 0.0), _WAIT_AT_MOST_S)


def asked_count(request: Request, name: str) -> int:
    """A query parameter that counts, 0 when it is missing. Raises Refusal when it is no such number."""
    asked = request.query_params.get(name, "0")
    if not (asked.isascii() and asked.isdecimal() and len(asked) <= 18):
        raise Refusal(400, f"{name} is not a whole number of at least 0.")
    return int(asked)
