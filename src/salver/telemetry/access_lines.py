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

When, on the clock of ``time.monotonic``; method; path as sent, without the query; status (101 for a WebSocket that
has been closed, 499 when the client left before); seconds from its head to the end of its answer; request id;
application and route prefix, empty where none matched; the client's address, where clients are shown.
A tuple, because one is made for every request.
"""


class TextLines:
    """``LEVEL time component id request-id -- METHOD path STATUS 1.2ms application=a route=/``."""

    def __init__(self, component: str, identity: str) -> None:
        self._clock = _Clock()
        self._who = f"{component} {identity}"
        self._tails: dict[tuple[str, str], str] = {}
        """How lines end, by application and route."""

    def lines(self, requests: list[EndedRequest]) -> str:
        """One loop over everything, without calls: half of the time."""
        who, tails = self._who, self._tails
        made: list[str] = []
        tick = -1
        stamp = ""
        for at, method, path, status, seconds, request_id, app, route, client in requests:
            if int(at * 1000) != tick:
                tick = int(at * 1000)
                stamp = self._clock.stamp(at)
            shown = path.decode("latin-1")
            if not shown.isprintable() or len(shown) > _MOST_PATH:
                shown = escaped(shown[:_MOST_PATH])
            tail = tails.get((app, route)) or self._new_tail(app, route)
            if status == _CLIENT_LEFT:
                tail = f"ms: the client left{tail[2:]}"
            if client:
                tail = f"{tail[:-1]} client={client}\n"
            made.append(f"INFO {stamp} {who} {request_id} -- {method} {shown} {status} {seconds * 1000:.1f}{tail}")
        return "".join(made)

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

    def lines(self, requests: list[EndedRequest]) -> str:
        """As for text."""
        who, tails = self._who, self._tails
        made: list[str] = []
        tick = -1
        stamp = ""
        for at, method, path, status, seconds, request_id, app, route, client in requests:
            if int(at * 1000) != tick:
                tick = int(at * 1000)
                stamp = self._clock.stamp(at)
            shown = path.decode("latin-1")
            if not shown.isprintable() or len(shown) > _MOST_PATH:
                shown = escaped(shown[:_MOST_PATH])
            if '"' in shown or "\\" in shown:
                shown = _quoted(shown)
            if '"' in request_id or "\\" in request_id:
                request_id = _quoted(request_id)
            tail = tails.get((app, route)) or self._new_tail(app, route)
            where = f',"client":"{client}"' if client else ""
            ms = seconds * 1000
            made.append(
                f'{{"asctime":"{stamp}","levelname":"INFO","message":"{method} {shown} {status} {ms:.1f}ms",'
                f'{who},"request_id":"{request_id}","method":"{method}","path":"{shown}",'
                f'"status":{status},"latency_ms":{ms:.3f}{where}{tail}'
            )
        return "".join(made)

    def _new_tail(self, app: str, route: str) -> str:
        about = "".join(
            f',"{name}":"{_quoted(value)}"' for name, value in (("application", app), ("route", route)) if value
        )
        return _keep(self._tails, app, route, f"{about}}}\n")


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


def _keep(tails: dict[tuple[str, str], str], app: str, route: str, tail: str) -> str:
    if len(tails) >= _MOST_TAILS:  # of applications that came and went
        tails.clear()
    tails[app, route] = tail
    return tail


def _quoted(text: str) -> str:
    """What is between the quotes of a string in JSON."""
    return msgspec.json.encode(text).decode()[1:-1]
