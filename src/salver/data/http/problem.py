"""What a client hears when it gets no answer of the application's: plain text, or RFC 9457 to those who accept it.

The plain texts are the ones that users of Ray Serve know. A client that says it accepts ``application/problem+json``
(or ``application/json``) gets the same in a form that programs read; ``type`` never changes its meaning.
"""

from __future__ import annotations

import math
import re
from http import HTTPStatus
from typing import Protocol

import msgspec
from msgspec import Struct

_TEXT = b"content-type: text/plain; charset=utf-8\r\n"
_PROBLEM = b"content-type: application/problem+json\r\n"
_accepts_json = re.compile(
    rb"(?:^|,)\s*application/(?:problem\+)?json\s*(?:;(?!\s*q=0(?:\.0*)?\s*(?:,|$))[^,]*)?(?:,|$)"
).search

NO_ROUTE = "no-route"
BAD_REQUEST = "bad-request"
TIMEOUT = "timeout"
OVERLOADED = "overloaded"
UNAVAILABLE = "unavailable"
REPLICA_DIED = "replica-died"
APPLICATION_ERROR = "application-error"


class Asked(Protocol):
    """What is known of the request: its head, or why that was refused."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...


class Problem(Struct, frozen=True):
    """An answer that the proxy gives itself.

    Attributes:
        status: HTTP status.
        kind: one of this module's names; the last part of ``type``.
        text: one sentence for people, without names of ours.
        retry_after_s: for the ``Retry-After`` header, None for none.
    """

    status: int
    kind: str
    text: str
    retry_after_s: float | None = None

    def render(self, head: Asked | None, request_id: str = "") -> tuple[bytes, bytes]:
        """Header block and body of the answer to the request with this head (None: there is none)."""
        extra = b""
        if self.retry_after_s is not None:
            extra = b"retry-after: %d\r\n" % math.ceil(self.retry_after_s)
        if head is None or not accepts_problem_json(head):
            return _TEXT + extra, self.text.encode()
        document: dict[str, object] = {
            "type": f"urn:salver:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.text,
        }
        if request_id:
            document["request_id"] = request_id
        return _PROBLEM + extra, msgspec.json.encode(document)


def accepts_problem_json(head: Asked) -> bool:
    """Whether the client asked for JSON by name; ``*/*`` does not."""
    return any(name == b"accept" and _accepts_json(value) for name, value in head.headers)


def overloaded(status: int, text: str, retry_after_s: float | None) -> Problem:
    """A queue is full. A 503 always says when to come again; what the deployment configured wins."""
    if retry_after_s is None and status == 503:
        retry_after_s = 1
    return Problem(status, OVERLOADED, text, retry_after_s)


def unavailable() -> Problem:
    """Why is for the log and for status: it names deployments, and may hold a line of the user's code."""
    return Problem(503, UNAVAILABLE, "The application is unavailable.", 1)


def too_many_connections() -> Problem:
    return Problem(503, OVERLOADED, "There are too many connections.", 1)


def timed_out(status: int, request_id: str, timeout_s: float | None) -> Problem:
    """The request's time is up, whoever was late. A 503 always says when to come again."""
    after = "" if timeout_s is None else f" after {timeout_s:g}s"
    again_s = 1 if status == 503 else None
    return Problem(status, TIMEOUT, f"Request {request_id} timed out{after}.", again_s)


def replica_died() -> Problem:
    return Problem(502, REPLICA_DIED, "The replica died while it handled this request.")


def application_error(traceback: str = "") -> Problem:
    """User code raised. The traceback is for debugging on this machine only."""
    return Problem(500, APPLICATION_ERROR, traceback or "Internal Server Error")


def error_event(problem: Problem, request_id: str) -> bytes:
    """The last event of a stream of server-sent events that breaks: browsers hide how a connection ended."""
    data = msgspec.json.encode({"type": f"urn:salver:problem:{problem.kind}", "request_id": request_id})
    return b"event: error\ndata: " + data + b"\n\n"
