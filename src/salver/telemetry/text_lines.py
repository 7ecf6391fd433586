"""Our own text format, read back: the fields of a record as its JSON line would have them.

The other direction is ``log_lines`` and ``access_lines``. Text says less than JSON, so some things stay as they are
written: control characters are escapes, times of requests have one decimal, where a record of ours (not of the
user's loggers) was made is not there, nor is what ``extra=`` added. A traceback after the message is ``exc_info``.
What is empty or unknown has no field.
"""

from __future__ import annotations

import re
from typing import Any

# Names of applications and deployments, and so ids of replicas, may have spaces.
beginning_of_record = re.compile(
    rb"[A-Z]+ (?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<component>[a-z]+) "
    rb"(?P<id>(?<=replica )[^#\n]+#[^#\n]+#\S+|\S+)(?: [^\n]*?)?? -- "
).match
"""Matches the first line of a record, of whatever logger."""

_head = re.compile(
    r"(?P<levelname>[A-Z]+) (?P<asctime>\S+ \S+) (?P<component_name>[a-z]+) "
    r"(?P<component_id>(?<=replica )[^#\n]+#[^#\n]+#\S+|\S+)(?: (?P<about>[^\n]*?))?? -- (?P<message>.*)",
    re.DOTALL,
).fullmatch
_about = re.compile(r"(?:(?!\w+=)(?P<request_id>\S+))? ?(?P<more>.*)").fullmatch
_attribute = re.compile(r"(\w+)=(.*?)(?= \w+=|$)").finditer
_place = re.compile(r"(?P<filename>[^\s:/]+):(?P<lineno>\d+) ").match
_traceback = re.compile(r"\n(?=(?:  \+ Exception Group )?Traceback \(most recent call last\):\n)").search
_access = re.compile(
    r"(?P<message>(?P<method>\S+) (?P<path>.*) (?P<status>\d{3}) (?P<latency_ms>\d+\.\d)ms)(?:: the client left)?"
    r"(?: application=(?P<application>.+?))?(?: route=(?P<route>/.*?))?(?: client=(?P<client>\S+))?"
).fullmatch
_application = re.compile(rb"ms(?:: the client left)? application=(.+?)(?: route=/.*?)?(?: client=\S+)?\n?\Z").search


def application_of(access_line: bytes) -> str:
    """The application that a request was for; empty for none, and for other lines."""
    found = _application(access_line)
    return "" if found is None else found[1].decode(errors="replace")


def fields_of(record: bytes) -> dict[str, Any]:
    """The fields of one record; only ``message`` for what is none of our lines.

    Args:
        record: all of its lines.
    """
    text = record.decode(errors="replace").removesuffix("\n")
    head = _head(text)
    if head is None:
        return {"message": text}
    fields = head.groupdict()
    about: str = fields.pop("about") or ""
    access = _access(head["message"]) if head["component_name"] == "proxy" else None
    if access is not None:
        return fields | {"request_id": about} | _of_request(access.groupdict())
    return _of_context(about) | fields | _of_message(head["message"]) | _of_replica(fields)


def _of_request(found: dict[str, str | None]) -> dict[str, Any]:
    parts: dict[str, Any] = {name: value for name, value in found.items() if value}
    return parts | {"status": int(parts["status"]), "latency_ms": float(parts["latency_ms"])}


def _of_message(message: str) -> dict[str, Any]:
    place = _place(message)
    where = {} if place is None else {"filename": place["filename"], "lineno": int(place["lineno"])}
    if place is not None:
        message = message[place.end() :]
    traceback = _traceback(message)
    if traceback is None:
        return {"message": message, **where}
    return {"message": message[: traceback.start()], **where, "exc_info": message[traceback.end() :]}


def _of_replica(fields: dict[str, Any]) -> dict[str, str]:
    """A replica's id names its application and deployment."""
    replica_id = str(fields["component_id"])
    parts = replica_id.split("#")
    if fields["component_name"] != "replica" or len(parts) != 3:
        return {}
    return {"application": parts[0], "deployment": parts[1], "replica": replica_id}


def _of_context(text: str) -> dict[str, str]:
    """The request, and ``additional_log_standard_attrs`` as they were shown; clients choose ids."""
    found = _about(text)
    if found is None:
        return {}
    request = {"request_id": found["request_id"]} if found["request_id"] else {}
    return request | {each[1]: each[2] for each in _attribute(found["more"])}
