"""One record, one line: the reference's fields, whatever people log."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.records import LoggingSpec
from salver.telemetry.log_lines import JSON, MOST_CHARACTERS, TEXT, escaped, line_formatter


def record(message: str, *args: object, **attributes: Any) -> logging.LogRecord:
    made = logging.LogRecord("ray.serve", logging.INFO, "/code/app.py", 7, message, args, None)
    made.__dict__.update(attributes)
    return made


def as_json(made: logging.LogRecord, *additional: str) -> dict[str, Any]:
    spec = LoggingSpec(encoding=JSON, additional_attributes=additional)
    line = line_formatter(spec, "replica", "app#D#x").format(made)
    assert "\n" not in line
    return json.loads(line)


def test_json_has_the_names_of_the_reference() -> None:
    made = record(
        "said %s", "ü\n\x1b", application="app", deployment="D", replica="app#D#x", route="", request_id="r"
    )
    fields = as_json(made, "name", "threadName")
    assert list(fields) == [
        *("asctime", "levelname", "message", "filename", "lineno", "component_name", "component_id"),
        *("deployment", "replica", "application", "request_id", "name", "threadName"),
    ]
    assert fields["message"] == "said ü\n\x1b"
    assert (fields["filename"], fields["lineno"]) == ("app.py", 7)
    assert (fields["component_name"], fields["component_id"]) == ("replica", "app#D#x")
    assert fields["asctime"] == logging.Formatter().formatTime(made)


def test_extra_fields_are_there_and_redacted() -> None:
    fields = as_json(record("", model="m", hf_token="x", request={"headers": {"Cookie": "c"}, "n": 1}))
    assert fields["model"] == "m"
    assert fields["hf_token"] == "<redacted>"
    assert fields["request"] == {"headers": {"Cookie": "<redacted>"}, "n": 1}


def test_an_exception_is_text() -> None:
    try:
        raise ValueError("no\x1b[31m")
    except ValueError:
        made = record("failed", exc_info=sys.exc_info())
    assert "ValueError: no" in as_json(made)["exc_info"]
    text = line_formatter(LoggingSpec(encoding=TEXT), "replica", "a").format(made)
    assert r"ValueError: no\x1b[31m" in text
    assert "\x1b" not in text


class Odd:
    def __str__(self) -> str:
        raise RuntimeError


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize("value", [object(), Odd(), CIRCLE, "\ud800", float("nan"), {1: {2: 3}}, b"\xff", 1 << 80])
def test_values_that_json_has_no_word_for(value: object) -> None:
    assert as_json(record("m", odd=value))["message"] == "m"


@given(st.text())
def test_no_control_character_gets_through(text: str) -> None:
    for encoding in (JSON, TEXT):
        line = line_formatter(LoggingSpec(encoding=encoding), "replica", "a").format(record("%s", text))
        assert all(character.isprintable() or ord(character) >= 160 or character in "\t\n" for character in line)
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in escaped(text))


def test_a_message_has_a_bound() -> None:
    for encoding in (JSON, TEXT):
        line = line_formatter(LoggingSpec(encoding=encoding), "replica", "a").format(record("x" * (1 << 20)))
        assert len(line) < MOST_CHARACTERS + 1000
        assert f"[{(1 << 20) - MOST_CHARACTERS} more characters]" in line


def test_text_has_the_additional_attributes() -> None:
    spec = LoggingSpec(additional_attributes=("levelno", "unknown"))
    line = line_formatter(spec, "replica", "a#b#c").format(record("m", request_id="r"))
    assert line.split(" ", 3)[3] == "replica a#b#c r levelno=20 unknown=None -- app.py:7 m"


def test_an_additional_attribute_cannot_begin_a_line_of_its_own() -> None:
    spec = LoggingSpec(additional_attributes=("threadName",))
    line = line_formatter(spec, "replica", "a#b#c").format(record("m", threadName="x\nERROR 2026\x1b"))
    assert r"threadName=x\x0aERROR 2026\x1b -- app.py:7 m" in line
    assert "\n" not in line
