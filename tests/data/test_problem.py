"""What clients hear when they get no answer of the application's."""

from __future__ import annotations

import json

import pytest

from salver.data.http.head import HeadParser, RequestHead
from salver.data.http.limits import HTTPLimits
from salver.data.http.problem import (
    Problem,
    accepts_problem_json,
    application_error,
    error_event,
    overloaded,
    timed_out,
    unavailable,
)
from salver.errors import BackPressureError


def head(*accept: str) -> RequestHead:
    lines = ["GET / HTTP/1.1", "host: h", *(f"accept: {value}" for value in accept)]
    return HeadParser(HTTPLimits()).parse("\r\n".join([*lines, "", ""]).encode())


@pytest.mark.parametrize(
    "accept",
    [
        "application/problem+json",
        "application/json",
        "text/html, application/json;q=0.9",
        "application/json ; charset=utf-8, */*",
        "application/json;q=0.05",
    ],
)
def test_clients_that_accept_a_document(accept: str) -> None:
    assert accepts_problem_json(head(accept))


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "text/plain",
        "application/*",
        "application/json;q=0",
        "application/json; q=0.0",
        "application/jsonl",
        "x application/json",
    ],
)
def test_clients_that_get_text(accept: str) -> None:
    assert not accepts_problem_json(head(accept))


def test_text_is_the_sentence_and_nothing_else() -> None:
    block, body = unavailable().render(head("*/*"), "id")
    assert block == b"content-type: text/plain; charset=utf-8\r\nretry-after: 1\r\n"
    assert body == b"The application is unavailable."
    assert unavailable().render(None) == (block, body)


def test_a_document_says_the_same() -> None:
    block, body = timed_out(408, "id", 2.5).render(head("application/json"), "id")
    assert block == b"content-type: application/problem+json\r\n"
    assert json.loads(body) == {
        "type": "urn:salver:problem:timeout",
        "title": "Request Timeout",
        "status": 408,
        "detail": "Request id timed out after 2.5s.",
        "request_id": "id",
    }


@pytest.mark.parametrize(
    ("status", "configured", "line"),
    [
        (503, None, b"retry-after: 1\r\n"),
        (429, None, b""),
        (429, 2.1, b"retry-after: 3\r\n"),
        (503, 7, b"retry-after: 7\r\n"),
    ],
)
def test_when_to_come_again(status: int, configured: float | None, line: bytes) -> None:
    text = BackPressureError(3, 3).message
    problem = overloaded(status, text, configured)
    block, body = problem.render(head())
    assert (problem.status, block) == (status, b"content-type: text/plain; charset=utf-8\r\n" + line)
    assert body == b"Request dropped due to backpressure (num_queued_requests=3, max_queued_requests=3)."


def test_tracebacks_only_where_they_were_asked_for() -> None:
    assert application_error().text == "Internal Server Error"
    assert application_error("Traceback …").text == "Traceback …"


def test_an_event_stream_ends_with_an_error_event() -> None:
    event = error_event(Problem(502, "replica-died", "It died."), "id")
    lines = event.decode().split("\n")
    assert lines[0] == "event: error"
    assert json.loads(lines[1].removeprefix("data: ")) == {
        "type": "urn:salver:problem:replica-died",
        "request_id": "id",
    }
    assert event.endswith(b"\n\n")
