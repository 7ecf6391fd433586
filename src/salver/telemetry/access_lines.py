"""Lines of the access log: text and JSON, by hand, since an encoder would take twice as long.

What requests have in common (method, path, status, application) is written once and kept, so that a line is a few
pieces put together. Most of what remained then was printing a float: times below 100 ms come from a table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from salver.telemetry.log_lines import escaped

_CLIENT_LEFT = 499
_MOST_KEPT = 500
_MOST_KEPT_PATH = 256
_MOST_PATH = 2048

EndedRequest = tuple[float, str, bytes, int, float, str, str, str, str]
"""A request that has its end.

When, on the clock of ``time.monotonic``; method; path as sent, without the query; status (101 for a WebSocket that
has been closed, 499 when the client left before); seconds from its head to the end of its answer; request id;
application and route prefix, empty where none matched; the client's address, where clients are shown.
A tuple, because one is made for every request.
"""

Pieces = TypeVar("Pieces")


class TextLines:
    """``LEVEL time component id request-id -- METHOD path STATUS 1.2ms application=a route=/``."""

    def __init__(self, component: str, identity: str) -> None:
        self._clock = _Clock()
        self._who = f"{component} {identity}"
        self._kept = _Kept(_text_pieces)

    def lines(self, requests: list[EndedRequest]) -> str:
        """One loop over everything, without calls: half of the time."""
        known, tenths_of_ms, many_tenths = self._kept.pieces, _TENTHS, len(_TENTHS)
        made: list[str] = []
        tick = -1
        begin = ""
        for at, method, path, status, seconds, request_id, app, route, client in requests:
            if int(at * 1000) != tick:
                tick = int(at * 1000)
                begin = f"INFO {self._clock.stamp(at)} {self._who} "
            about = (method, path, status, app, route)
            before, after = known.get(about) or self._kept.make(about)
            if client:
                after = f"{after[:-1]} client={client}\n"
            tenths = int(seconds * 10_000 + 0.5)
            ms = tenths_of_ms[tenths] if tenths < many_tenths else f"{seconds * 1000:.1f}"
            made.append(f"{begin}{request_id}{before}{ms}{after}")
        return "".join(made)


def _text_pieces(method: str, path: bytes, status: int, app: str, route: str) -> tuple[str, str]:
    """A line's pieces between its request id and its milliseconds, and after these."""
    named = "".join(f" {name}={escaped(value)}" for name, value in (("application", app), ("route", route)) if value)
    left = ": the client left" if status == _CLIENT_LEFT else ""
    return f" -- {method} {_shown(path)} {status} ", f"ms{left}{named}\n"


class JsonLines:
    """One object per line: the reference's names, and the parts of the message by themselves."""

    def __init__(self, component: str, identity: str) -> None:
        self._clock = _Clock()
        self._who = f'ms","component_name":"{component}","component_id":"{identity}","request_id":"'
        self._kept = _Kept(_json_pieces)

    def lines(self, requests: list[EndedRequest]) -> str:
        """As for text."""
        who, known, tenths_of_ms, many_tenths = self._who, self._kept.pieces, _TENTHS, len(_TENTHS)
        made: list[str] = []
        tick = -1
        begin = ""
        for at, method, path, status, seconds, request_id, app, route, client in requests:
            if int(at * 1000) != tick:
                tick = int(at * 1000)
                begin = f'{{"asctime":"{self._clock.stamp(at)}","levelname":"INFO","message":"'
            about = (method, path, status, app, route)
            message, parts, after = known.get(about) or self._kept.make(about)
            if '"' in request_id or "\\" in request_id:
                request_id = _quoted(request_id)
            where = f',"client":"{client}"' if client else ""
            tenths = int(seconds * 10_000 + 0.5)
            ms = tenths_of_ms[tenths] if tenths < many_tenths else f"{seconds * 1000:.1f}"
            made.append(f"{begin}{message}{ms}{who}{request_id}{parts}{seconds * 1000:.3f}{where}{after}")
        return "".join(made)


def _json_pieces(method: str, path: bytes, status: int, app: str, route: str) -> tuple[str, str, str]:
    """A line's pieces: the message before its milliseconds, what follows the request id, and the end."""
    shown = _shown(path)
    if '"' in shown or "\\" in shown:
        shown = _quoted(shown)
    parts = f'","method":"{method}","path":"{shown}","status":{status},"latency_ms":'
    named = (("application", app), ("route", route))
    return (
        f"{method} {shown} {status} ",
        parts,
        "".join(f',"{name}":"{_quoted(value)}"' for name, value in named if value) + "}\n",
    )


class _Kept(Generic[Pieces]):
    """The pieces of lines that were made before: not too many, clients choose the paths.

    Args:
        of_line: makes them, of method, path, status, application and route.
    """

    def __init__(self, of_line: Callable[[str, bytes, int, str, str], Pieces]) -> None:
        self._of_line = of_line
        self.pieces: dict[tuple[str, bytes, int, str, str], Pieces] = {}

    def make(self, about: tuple[str, bytes, int, str, str]) -> Pieces:
        made = self._of_line(*about)
        if len(about[1]) <= _MOST_KEPT_PATH:
            if len(self.pieces) >= _MOST_KEPT:
                self.pieces.clear()
            self.pieces[about] = made
        return made


class _Clock:
    """Wall-clock times of moments that a monotonic clock has measured."""

    def __init__(self) -> None:
        self._second = -1
        self._date = ""

    def stamp(self, at: float) -> str:
        now = at + time.time() - time.monotonic()  # each time: the wall clock may be set
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._date},{int((now - second) * 1000):03d}"


_TENTHS = [f"{tenths / 10:.1f}" for tenths in range(1000)]
"""Milliseconds as they are printed."""


def _shown(path: bytes) -> str:
    shown = path.decode("latin-1")
    return shown if shown.isprintable() and len(shown) <= _MOST_PATH else escaped(shown[:_MOST_PATH])


def _quoted(text: str) -> str:
    """What is between the quotes of a string in JSON."""
    return msgspec.json.encode(text).decode()[1:-1]
