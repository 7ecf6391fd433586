"""Responses of Starlette's, sent: the usual ones without their help, and with it where a class has its own way."""

from __future__ import annotations

import array
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Send

from salver.data.replica.responses import send_response
from salver.wire.frames import END, PIECES, Kind
from salver.wire.messages import RequestMeta

from .scene import run
from .test_asgi import exchange

META = RequestMeta("GET", b"/", [], "id", "1.1", "", "app", "http", None, None)


async def items(*values: Any) -> AsyncIterator[Any]:
    for value in values:
        yield value


def sent_by(response: StreamingResponse) -> list[tuple[Any, ...]]:
    http, sent = exchange()
    run(send_response(response, META, http))
    return sent.take()


def test_pieces_of_every_kind_leave_as_bytes() -> None:
    numbers = memoryview(array.array("I", [1, 2]))
    answer = sent_by(StreamingResponse(items("é", b"two", b"", bytearray(b"3"), numbers)))
    whole = b"".join(data.split(b"\r\n")[1] if flags == PIECES else data for kind, data, flags in answer[1:])
    assert whole == "é".encode() + b"two" + b"3" + numbers.tobytes()
    assert answer[0][0] == Kind.HEAD
    assert answer[-1] == (Kind.DATA, b"", END)


def test_a_background_task_runs_after_the_answer() -> None:
    http, sent = exchange()
    seen: list[tuple[Any, ...]] = []
    response = StreamingResponse(items(b"one"), background=BackgroundTask(lambda: seen.extend(sent.take())))
    run(send_response(response, META, http))
    assert seen[-1] == (Kind.DATA, b"", END)


def test_an_error_of_the_generator_s_is_not_taken_for_a_client_that_left() -> None:
    async def reads() -> AsyncIterator[bytes]:
        yield b"one"
        raise FileNotFoundError("no such model")

    with pytest.raises(FileNotFoundError, match="no such model"):
        sent_by(StreamingResponse(reads()))


def test_a_client_that_left_closes_the_generator() -> None:
    http, _ = exchange()
    closed: list[bool] = []

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more"
                http.disconnect()
        finally:
            closed.append(True)

    with pytest.raises(ClientDisconnect):
        run(send_response(StreamingResponse(endless()), META, http))
    assert closed == [True]


class Loud(StreamingResponse):
    """Has its own way."""

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for item in self.body_iterator:
            await send({"type": "http.response.body", "body": bytes(item).upper(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def test_a_class_with_its_own_way_of_sending_is_asked_to() -> None:
    assert (Kind.DATA, b"3\r\nONE\r\n", PIECES) in sent_by(Loud(items(b"one")))
