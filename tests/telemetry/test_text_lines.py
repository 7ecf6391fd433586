"""The text format, read back, says what the JSON of the same record says."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from salver.records import LoggingSpec
from salver.telemetry.access_lines import EndedRequest, JsonLines, TextLines
from salver.telemetry.log_lines import JSON, TEXT, line_formatter
from salver.telemetry.text_lines import application_of, beginning_of_record, fields_of

Fields = dict[str, Any]

_words = st.text('ab =:/.#-\\"é', max_size=12)
_request_ids = st.text('ab0=-/"\\', min_size=1, max_size=9)
_undivided_ids = _request_ids.filter(lambda text: text != "--")  # in access lines that is the separator
_paths = st.text('/ab=:%200.ms\\"\x7fé', min_size=1, max_size=20).map(lambda text: text.encode("latin-1"))


def both(record: logging.LogRecord, component: str, identity: str, *additional: str) -> tuple[Fields, Fields]:
    """A record through either format."""
    as_text, as_json = (
        line_formatter(LoggingSpec(encoding=encoding, additional_attributes=additional), component, identity)
        for encoding in (TEXT, JSON)
    )
    text = f"{as_text.format(record)}\n".encode()
    assert beginning_of_record(text)
    return fields_of(text), json.loads(as_json.format(record))


def record(message: str, logger: str = "salver.controller", **attributes: Any) -> logging.LogRecord:
    made = logging.LogRecord(
        logger, logging.WARNING, "/code/app.py", 7, message, (), attributes.pop("exc_info", None)
    )
    made.__dict__.update(attributes)
    return made


@given(message=_words, request_id=_request_ids, thread=_words.map(str.strip))
@example(message="GET / 200 1.0ms application=a", request_id="r", thread="Thread-1 (run)")
@example(message="a -- b", request_id="levelname=ERROR", thread="MainThread")
def test_a_record_of_a_user_has_the_same_fields(message: str, request_id: str, thread: str) -> None:
    if "=" in thread:
        return  # shown as it is: where it ends could not be told
    about = {"application": "my shop", "deployment": "D", "replica": "my shop#D#x", "request_id": request_id}
    made = record(message, "ray.serve", threadName=thread, **about)
    read, meant = both(made, "replica", "my shop#D#x", "threadName")
    assert read == meant


@pytest.mark.parametrize("component", ["controller", "proxy", "supervisor"])
def test_a_record_of_ours_lacks_only_where_it_was_made(component: str) -> None:
    read, meant = both(record("it -- is:\nso\tand\nso"), component, "77")
    del meant["filename"], meant["lineno"]
    assert read == meant


def test_a_traceback_is_a_field_of_its_own() -> None:
    try:
        raise ExceptionGroup("two", [ValueError("one"), KeyError("two")])
    except ExceptionGroup:
        grouped = record("failed", "ray.serve", exc_info=sys.exc_info())
    try:
        raise ValueError("one")
    except ValueError:
        plain = record("failed\nbadly", "ray.serve", exc_info=sys.exc_info())
    for made in (plain, grouped):
        read, meant = both(made, "controller", "7")
        assert read == meant


@given(
    method=st.sampled_from(["GET", "POST", "M-SEARCH"]),
    path=_paths,
    status=st.sampled_from([101, 200, 499, 503]),
    seconds=st.floats(0, 1000),
    request_id=_undivided_ids,
    app=st.sampled_from(["", "shop", "my shop", "a application=b"]),
    route=st.sampled_from(["", "/", "/a b", "/c"]),
    client=st.sampled_from(["", "127.0.0.1:7", "[::1]:80"]),
)
def test_a_request_has_the_same_fields(
    method: str, path: bytes, status: int, seconds: float, request_id: str, app: str, route: str, client: str
) -> None:
    ended: EndedRequest = (time.monotonic(), method, path, status, seconds, request_id, app, route, client)
    text = TextLines("proxy", "7").lines([ended]).encode()
    read, meant = fields_of(text), json.loads(JsonLines("proxy", "7").lines([ended]))
    for fields in (read, meant):  # two clocks, and two precisions
        del fields["asctime"]
        assert round(abs(fields.pop("latency_ms") - seconds * 1000), 9) <= 0.06
    assert read == meant
    assert application_of(text) == app


def test_what_is_no_line_of_ours_is_a_message() -> None:
    assert fields_of(b"Segmentation fault\xff\n") == {"message": "Segmentation fault\ufffd"}
