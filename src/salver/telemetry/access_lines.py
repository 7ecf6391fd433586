"""Lines of the access log: text and JSON, by hand, since an encoder would take twice as long."""

from __future__ import annotations

import time

import msgspec

from salver.telemetry.log_lines import escaped

_CLIENT_LEFT = 499
_MOST_TAILS = 1000
_MOST_PATH = 2048

EndedRequest = tuple[float, str, bytes, int, float, str, str, str, str]
"""A request that has its end.

When, on the clock of ``time.monotonic``; method; path as sent, without the query; status (101 for a WebSocket that has
been closed, 499 when the client left before); seconds from its head to the end of its answer; request id; application
and route prefix, empty where none matched; the client's address, where clients are shown. A tuple, because one is made
for every request.
"""


class TextLines:
    """``LEVEL time component id request-id -- METHOD path STATUS 1.2ms application=a route=/``."""

    def __init__(self, component: str, identity: str) -> None:
        self._clock = _Clock()
        self._who = f"{component} {identity}"
        self._tails: dict[tuple[str, str], str] = {}
        """How lines end, by application and route."""

    def line(self, request: EndedRequest) -> str:
        at, method, path, status, seconds, request_id, app, route, client = request
        tail = self._tails.get((app, route)) or self._new_tail(app, route)
        if status == _CLIENT_LEFT:
            tail = f"ms: the client left{tail[2:]}"
        if client:
            tail = f"{tail[:-1]} client={client}\n"
        stamp = self._clock.stamp(at)
        return f"INFO {stamp} {self._who} {request_id} -- {method} {_shown(path)} {status} {seconds * 1000:.1f}{tail}"

    def _new_tail(self, app: str, route: str) -> str:
        about = "".join(
            f" {name}={escaped(value)}" for name, value in (("application", app), ("route", route)) if value
        )
        return _keep(self._tails, app, route, f"ms{about}\n")


class JsonLines:
    """One object per line: the reference's names, and the parts of the message by themselves."""

    def __init__(self, component: str, identity: str) -> None:
        self._clock = _Clock()
        self._who = f'"component_name":"{component}","component_id":"{identity}"'
        self._tails: dict[tuple[str, str], str] = {}

    def line(self, request: EndedRequest) -> str:
        at, method, path, status, seconds, request_id, app, route, client = request
        tail = self._tails.get((app, route)) or self._new_tail(app, route)
        shown = _quoted(_shown(path))
        ms = seconds * 1000
        where = f',"client":"{client}"' if client else ""
        return (
            f'{{"asctime":"{self._clock.stamp(at)}","levelname":"INFO","message":"{method} {shown} {status} {ms:.1f}ms",'
            f'{self._who},"request_id":"{_quoted(request_id)}","method":"{method}","path":"{shown}",'
            f'"status":{status},"latency_ms":{ms:.3f}{where}{tail}'
        )

    def _new_tail(self, app: str, route: str) -> str:
        about = "".join(
            f',"{name}":"{_quoted(value)}"' for name, value in (("application", app), ("route", route)) if value
        )
        return _keep(self._tails, app, route, f"{about}}}\n")


class _Clock:
    """Wall-clock times of moments that a monotonic clock has measured, one millisecond at a time."""

    def __init__(self) -> None:
        self._tick = -1
        self._second = -1
        self._date = ""
        self._stamp = ""

    def stamp(self, at: float) -> str:
        tick = int(at * 1000)
        if tick != self._tick:
            self._tick = tick
            self._stamp = self._new_stamp(at)
        return self._stamp

    def _new_stamp(self, at: float) -> str:
        now = at + time.time() - time.monotonic()  # each time: the wall clock may be set
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._date},{int((now - second) * 1000):03d}"


def _keep(tails: dict[tuple[str, str], str], app: str, route: str, tail: str) -> str:
    if len(tails) >= _MOST_TAILS:  # of applications that came and went
        tails.clear()
    tails[app, route] = tail
    return tail


def _shown(path: bytes) -> str:
    shown = path.decode("latin-1")
    return shown if shown.isprintable() and len(shown) <= _MOST_PATH else escaped(shown[:_MOST_PATH])


def _quoted(text: str) -> str:
    """What is between the quotes of a string in JSON."""
    return msgspec.json.encode(text).decode()[1:-1] if '"' in text or "\\" in text else text
