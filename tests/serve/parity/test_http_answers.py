"""What becomes of what an HTTP handler returns, or raises."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import AsyncGenerator, Generator
from typing import Any

import numpy as np
import pytest
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from salver import serve
from salver.serve.exceptions import BackPressureError, DeploymentUnavailableError

from .world import CUT, World


class Price(BaseModel):
    """A pydantic model."""

    amount: float


@dataclasses.dataclass
class Point:
    """A dataclass."""

    x: int
    day: datetime.date


VALUES: dict[str, Any] = {
    "str": "käse",
    "bytes": b"\x00\xff",
    "none": None,
    "dict": {"a": [1, 2.5, None, True]},
    "list": [1, "two"],
    "int": 7,
    "pydantic": Price(amount=2.5),
    "models": [Price(amount=1)],
    "dataclass": Point(1, datetime.date(2026, 1, 2)),
    "array": np.arange(3),
    "scalar": np.float32(0.5),
    "exception": ValueError("as a value"),
    "set": {4},
}


class ShortOfMemory(Exception):
    """The user's own."""


@serve.deployment(max_ongoing_requests=10)
class Answers:
    """Answers in the way that the path names."""

    def __call__(self, request: Request) -> Any:
        how = request.url.path.strip("/")
        return VALUES[how] if how in VALUES else getattr(self, how)()

    def response(self) -> Response:
        return Response("made by hand", 201, {"x-mine": "1"}, "application/x-mine")

    def html(self) -> Response:
        return HTMLResponse("<p>")

    def json(self) -> Response:
        return JSONResponse({"a": 1}, 418)

    def empty(self) -> Response:
        return Response(status_code=204)

    def own_id(self) -> Response:
        return Response("", headers={"x-request-id": "of the application"})

    def streaming(self) -> Response:
        return StreamingResponse(pieces(), media_type="text/event-stream", headers={"x-mine": "1"})

    def generator(self) -> Generator[str]:
        yield from ("a", "b", "c")

    def async_generator(self) -> AsyncGenerator[bytes]:
        return pieces()

    def raises(self) -> None:
        raise ShortOfMemory("secret")

    def raises_late(self) -> Generator[str]:
        yield "part"
        raise ShortOfMemory("secret")

    def events_that_fail(self) -> Response:
        return StreamingResponse(pieces(fail=True), media_type="text/event-stream")

    def exits(self) -> None:
        raise SystemExit(3)

    def overloaded(self) -> None:
        raise BackPressureError(3, 3, status_code=429, retry_after_s=1.2)

    def unavailable(self) -> None:
        raise DeploymentUnavailableError("app#Other", "It was deleted.")

    def unencodable(self) -> object:
        return object()


async def pieces(*, fail: bool = False) -> AsyncGenerator[bytes]:
    for number in range(3):
        yield b"data: %d\n\n" % number
    if fail:
        raise ShortOfMemory("secret")


@serve.deployment
def function_of_request(request: Request) -> str:
    return request.method


@serve.deployment
async def function_of_nothing() -> str:
    return "called with nothing"


@serve.deployment
class OfNothing:
    def __call__(self) -> str:
        return "called with nothing"


@serve.deployment
class NotCallable:
    def method(self) -> None: ...


TEXT, PLAIN, JSON = "text/plain; charset=utf-8", "text/plain", "application/json"


TABLE: dict[str, tuple[int, str | None, bytes]] = {
    "str": (200, TEXT, "käse".encode()),
    "bytes": (200, PLAIN, b"\x00\xff"),
    "none": (200, PLAIN, b""),
    "dict": (200, JSON, b'{"a":[1,2.5,null,true]}'),
    "list": (200, JSON, b'[1,"two"]'),
    "int": (200, JSON, b"7"),
    "pydantic": (200, JSON, b'{"amount":2.5}'),
    "models": (200, JSON, b'[{"amount":1.0}]'),
    "dataclass": (200, JSON, b'{"x":1,"day":"2026-01-02"}'),
    "array": (200, JSON, b"[0,1,2]"),
    "scalar": (200, JSON, b"0.5"),
    "exception": (200, JSON, b'"as a value"'),
    "set": (200, JSON, b"[4]"),
    "response": (201, "application/x-mine", b"made by hand"),
    "html": (200, "text/html; charset=utf-8", b"<p>"),
    "json": (418, JSON, b'{"a":1}'),
    "empty": (204, None, b""),
    "raises": (500, TEXT, b"Internal Server Error"),
    "exits": (500, TEXT, b"Internal Server Error"),
    "unencodable": (500, TEXT, b"Internal Server Error"),
}


def test_every_kind_of_answer(answers: World) -> None:
    for path, expected in TABLE.items():
        answer = answers.get(f"/{path}")
        assert (answer.status_code, answer.headers.get("content-type"), answer.content) == expected, path
        assert answer.headers.get("content-length") == (None if path == "empty" else str(len(expected[2]))), path
        assert len(answer.headers["x-request-id"]) == 36


def test_generators_are_streamed(answers: World) -> None:
    for path, content_type, body in (
        ("streaming", "text/event-stream; charset=utf-8", b"data: 0\n\ndata: 1\n\ndata: 2\n\n"),
        ("generator", "text/plain; charset=utf-8", b"abc"),
        ("async_generator", "text/plain; charset=utf-8", b"data: 0\n\ndata: 1\n\ndata: 2\n\n"),
    ):
        with answers.stream(f"/{path}") as answer:
            assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
            assert "content-length" not in answer.headers
            assert b"".join(answer.iter_bytes()) == body


def test_a_stream_that_breaks_is_not_taken_for_the_whole(answers: World) -> None:
    received: list[bytes] = []
    with answers.stream("/raises_late") as answer, pytest.raises(CUT) as raised:
        received.extend(answer.iter_bytes())
    assert answer.status_code == 200
    assert received in ([b"part"], [])  # over a network the end may overtake it
    assert "secret" not in str(raised.value)


def test_an_event_stream_that_breaks_says_so_first(answers: World) -> None:
    received = b""
    with answers.stream("/events_that_fail") as answer, pytest.raises(CUT):
        for piece in answer.iter_bytes():
            received += piece
    assert received.startswith(b"data: 0\n\ndata: 1\n\ndata: 2\n\nevent: error\n")
    assert b"secret" not in received


def test_what_is_not_the_applications_fault_has_its_own_answers(answers: World) -> None:
    overloaded = answers.get("/overloaded")
    assert (overloaded.status_code, overloaded.headers["retry-after"]) == (429, "2")
    assert overloaded.text == ("Request dropped due to backpressure (num_queued_requests=3, max_queued_requests=3).")
    assert answers.get("/unavailable").status_code == 503
    document = answers.get("/overloaded", headers={"accept": "application/json"})
    assert (document.headers["content-type"], document.json()["status"]) == ("application/problem+json", 429)


def test_request_ids_are_the_clients_ours_or_the_applications(answers: World) -> None:
    assert answers.get("/str", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    with answers.stream("/own_id") as answer:
        ids = [value for name, value in raw_headers(answer) if name.lower() == b"x-request-id"]
        assert ids == [b"of the application"]


def raw_headers(answer: Any) -> list[tuple[bytes, bytes]]:
    return answer.raw_headers if hasattr(answer, "raw_headers") else answer.headers.raw


def test_head_has_the_headers_alone(answers: World) -> None:
    answer = answers.request("HEAD", "/str")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"", TEXT)
    assert answer.headers["content-length"] == str(len("käse".encode()))
    with_stream = answers.request("HEAD", "/streaming")
    assert (with_stream.status_code, with_stream.content, with_stream.headers["x-mine"]) == (200, b"", "1")


def test_handlers_may_take_nothing(world: World) -> None:
    for number, application in enumerate((OfNothing.bind(), function_of_nothing.bind())):
        world.run(application, f"app{number}", f"/{number}")
        assert world.get(f"/{number}").text == "called with nothing"


def test_any_method_and_path_under_the_prefix(world: World) -> None:
    world.run(function_of_request.bind(), route_prefix="/deep/down")
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = world.request(method, "/deep/down/and/further")
        assert (answer.status_code, answer.text) == (200, method)
    missing = world.get("/deep/downwards")
    assert missing.status_code == 404
    assert missing.text.startswith("Path '/deep/downwards' not found. Ping http://")
    assert world.get("/-/routes").json() == {"/deep/down": "app"}


def test_a_class_without_call_cannot_be_asked(world: World) -> None:
    world.run(NotCallable.bind())
    assert world.get("/").status_code == 500


@pytest.fixture
def answers(world: World) -> World:
    world.run(Answers.bind())
    return world
