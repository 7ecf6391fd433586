"""One log record as one line: as text for people, as a JSON object for programs.

Text is ``LEVEL time component id [request id] -- message``; records of the user's loggers have ``file:line`` before
the message. JSON has the field names of the reference. msgspec writes it: it is in every process already, takes a
tenth of the time of ``json``, and a formatter around it is as long as the set-up of a library would be.

Control characters are escaped wherever they come from: a logged path must not be able to drive somebody's terminal.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from salver.records import LoggingSpec
from salver.telemetry.record_attributes import is_below
from salver.telemetry.redaction import redacted

DEFAULT_LOGGING = LoggingSpec()

JSON = "JSON"
TEXT = "TEXT"

MOST_CHARACTERS = 65536
"""Of one message; what is longer is cut, so that a bounded number of lines is a bounded number of bytes."""

_USER_LOGGERS = ("ray.serve", "salver.serve")
_CONTROLS = (*range(32), *range(127, 160))
_ESCAPES = {code: f"\\x{code:02x}" for code in _CONTROLS if code not in {9, 10}}
_ESCAPES_OF_ONE_LINE = {code: f"\\x{code:02x}" for code in _CONTROLS}
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in range(127, 160)}
_REQUEST_FIELDS = ("deployment", "replica", "application", "route", "request_id")
_STANDARD = frozenset({*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime", "taskName"})


def escaped(text: str) -> str:
    """``text`` as part of one line, without any control character."""
    return text if text.isprintable() else text.translate(_ESCAPES_OF_ONE_LINE)


def line_formatter(spec: LoggingSpec, component: str, identity: str) -> logging.Formatter:
    """What makes lines of this process's records; an encoding that is not said is text."""
    make = JsonFormatter if spec.encoding == JSON else TextFormatter
    return make(component, identity, spec.additional_attributes)


class TextFormatter(logging.Formatter):
    """Adds who speaks and for which request."""

    def __init__(self, component: str, identity: str, additional: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._component = component
        self._identity = identity
        self._additional = additional

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).translate(_ESCAPES)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        request_id = getattr(record, "request_id", "")
        named = "request_id=" if "=" in request_id or request_id == "--" else ""  # clients choose it, even so
        about = f" {named}{request_id}" if request_id else ""
        more = "".join(f" {name}={escaped(str(getattr(record, name, None)))}" for name in self._additional)
        where = f"{record.filename}:{record.lineno} " if is_below(record.name, _USER_LOGGERS) else ""
        who = f"{self._component} {self._identity}{about}{more}"
        return f"{record.levelname} {self.formatTime(record)} {who} -- {where}{_cut(record.getMessage())}"


class JsonFormatter(logging.Formatter):
    """The reference's fields, then the additional attributes, then what the caller gave as ``extra``, redacted."""

    def __init__(self, component: str, identity: str, additional: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._component = component
        self._identity = identity
        self._additional = additional

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": _cut(record.getMessage()),
            "filename": record.filename,
            "lineno": record.lineno,
            "component_name": self._component,
            "component_id": self._identity,
        }
        attributes = record.__dict__
        for name in _REQUEST_FIELDS:
            if attributes.get(name):
                fields[name] = attributes[name]
        for name in self._additional:
            fields[name] = attributes.get(name)
        for name, value in attributes.items():
            if name not in _STANDARD and name not in _REQUEST_FIELDS and name not in fields:
                fields[name] = redacted(value, name)
        if record.exc_info:
            fields["exc_info"] = _cut(self.formatException(record.exc_info))
        if record.stack_info:
            fields["stack_info"] = self.formatStack(record.stack_info)
        return _as_json(fields)


def _cut(text: str) -> str:
    more = len(text) - MOST_CHARACTERS
    return text if more <= 0 else f"{text[:MOST_CHARACTERS]}... [{more} more characters]"


def _as_json(fields: dict[str, Any]) -> str:
    """Whatever the values are: what JSON cannot say is shown as its text."""
    try:
        line = msgspec.json.encode(fields, enc_hook=_shown)
    except Exception:  # noqa: BLE001 - lone surrogates, cycles, keys that are no text, a __str__ that raises
        line = msgspec.json.encode({name: _shown(value) for name, value in fields.items()})
    return line.decode().translate(_JSON_ESCAPES)


def _shown(value: object) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - the user's
        text = f"<{type(value).__name__}>"
    return _cut(text).encode("utf-8", "backslashreplace").decode()
