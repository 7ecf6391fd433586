"""The access log: one line for each HTTP request, written by the proxy when the request has its end.

It is the only log on the request path, and it is on by default, so it makes no ``LogRecord``: a line is formatted
once for all outlets, kept, and handed over with others every 100 ms, or 64 KiB. Somebody who has given the logger
``salver.access`` a handler gets records as well.

A line has the path as the client sent it, without the query: people put secrets there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from salver.telemetry.log_lines import JSON, escaped

logger = logging.getLogger("salver.access")

_FLUSH_AFTER_S = 0.1
_FLUSH_LINES = 500
"""About 64 KiB."""
_MOST_TAILS = 1000
_MOST_PATH = 2048
_CLIENT_LEFT = 499


class AccessLog:
    """Where a proxy notes the requests that have ended. For one event loop.

    Args:
        write: takes whole lines; must not wait.
        encoding: ``TEXT`` or ``JSON``.
        component, identity: of this process.
        shows_clients: whether lines say where requests came from.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        *,
        encoding: str,
        component: str,
        identity: str,
        shows_clients: bool = False,
    ) -> None:
        self.shows_clients = shows_clients
        self._write = write
        self._as_json = encoding == JSON
        self._component = component
        self._identity = identity
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tick = -1
        self._before = ""
        """How a line begins in the millisecond ``_tick``."""
        self._tails: dict[tuple[str, str], str] = {}
        """How lines end, by application and route."""

    def ended(
        self,
        at: float,
        method: str,
        path: bytes,
        status: int,
        seconds: float,
        request_id: str,
        app: str,
        route: str,
        client: str = "",
    ) -> None:
        """A request has its end.

        Args:
            at: now, on a clock that does not jump.
            path: as sent, without the query.
            status: what was answered; 101 for a WebSocket that has been closed, 499 when the client left before.
            seconds: from its head to the end of its answer.
            app, route: the application and its route prefix, empty where none matched.
            client: its address, where clients are shown.
        """
        tick = int(at * 1000)
        if tick != self._tick:
            self._tick = tick
            self._new_time()
        shown = path.decode("latin-1")
        if not shown.isprintable() or len(shown) > _MOST_PATH:
            shown = escaped(shown[:_MOST_PATH])
        tail = self._tails.get((app, route)) or self._new_tail(app, route)
        if self._as_json:
            line = self._json(method, shown, status, seconds * 1000, request_id, client) + tail
        else:
            if status == _CLIENT_LEFT or client:
                tail = _unusual(tail, status, client)
            line = f"{self._before}{request_id} -- {method} {shown} {status} {seconds * 1000:.1f}{tail}"
        self._lines.append(line)
        if logger.handlers:
            where = {"request_id": request_id, "application": app, "route": route}
            logger.info("%s %s %d %.1fms", method, shown, status, seconds * 1000, extra=where)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_AFTER_S, self._time_to_flush)
        elif len(self._lines) >= _FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Hand over what there is."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._write("".join(lines).encode())

    def close(self) -> None:
        """Hand over what there is, and no more after that. May be called twice."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_to_flush(self) -> None:
        self._timer = None
        self.flush()

    # --- parts of lines ---------------------------------------------------------------------------------

    def _new_time(self) -> None:
        now = time.time()
        second = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        stamp = f"{second},{int(now % 1 * 1000):03d}"
        if self._as_json:
            who = f'"component_name":"{self._component}","component_id":"{self._identity}"'
            self._before = f'{{"asctime":"{stamp}","levelname":"INFO",{who},'
        else:
            self._before = f"INFO {stamp} {self._component} {self._identity} "

    def _new_tail(self, app: str, route: str) -> str:
        about = {name: value for name, value in (("application", app), ("route", route)) if value}
        if self._as_json:
            tail = "".join(f',"{name}":"{_quoted(value)}"' for name, value in about.items()) + "}\n"
        else:
            tail = "ms" + "".join(f" {name}={escaped(value)}" for name, value in about.items()) + "\n"
        if len(self._tails) >= _MOST_TAILS:  # of applications that came and went
            self._tails.clear()
        self._tails[app, route] = tail
        return tail

    def _json(self, method: str, path: str, status: int, ms: float, request_id: str, client: str) -> str:
        """Everything but the tail; by hand, in half of the time that an encoder takes."""
        path, request_id = _quoted(path), _quoted(request_id)
        where = f',"client":"{client}"' if client else ""
        return (
            f'{self._before}"message":"{method} {path} {status} {ms:.1f}ms","request_id":"{request_id}",'
            f'"method":"{method}","path":"{path}","status":{status},"latency_ms":{ms:.3f}{where}'
        )


def _quoted(text: str) -> str:
    """What is between the quotes of a string in JSON."""
    return msgspec.json.encode(text).decode()[1:-1] if '"' in text or "\\" in text else text


def _unusual(tail: str, status: int, client: str) -> str:
    if status == _CLIENT_LEFT:
        tail = f"ms: the client left{tail[2:]}"
    return f"{tail[:-1]} client={client}\n" if client else tail
