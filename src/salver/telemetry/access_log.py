"""The access log: one line for each HTTP request, written by the proxy when the request has its end.

It is the only log on the request path, and it is on by default, so it makes no ``LogRecord``, and while a request is
served it only keeps what is to be said. Lines are made for 64 requests at a time, once for all outlets, and handed
over every 100 ms. Somebody who has given the logger ``salver.access`` a handler gets records as well.

A line has the path as the client sent it, without the query: people put secrets there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from salver.telemetry.access_lines import EndedRequest, JsonLines, TextLines
from salver.telemetry.log_lines import JSON

logger = logging.getLogger("salver.access")

_FLUSH_AFTER_S = 0.1
_REQUESTS_AT_A_TIME = 64
_FLUSH_BATCHES = 64
"""About 512 KiB. Each time the loop has to leave its turn in the interpreter to a thread that writes."""


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
        lines = JsonLines if encoding == JSON else TextLines
        self._lines = lines(component, identity)
        self._ended: list[EndedRequest] = []
        self._batches: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def ended(self, request: EndedRequest) -> None:
        """A request has its end."""
        self._ended.append(request)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_AFTER_S, self._time_to_flush)
        elif len(self._ended) >= _REQUESTS_AT_A_TIME:
            self._make_lines()
            if len(self._batches) >= _FLUSH_BATCHES:
                self.flush()

    def flush(self) -> None:
        """Hand over what there is."""
        self._make_lines()
        if self._batches:
            batches, self._batches = self._batches, []
            self._write("".join(batches).encode())

    def close(self) -> None:
        """Hand over what there is, and no more after that. May be called twice."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_to_flush(self) -> None:
        self._timer = None
        self.flush()

    def _make_lines(self) -> None:
        if not self._ended:
            return
        requests, self._ended = self._ended, []
        self._batches.append(self._lines.lines(requests))
        if logger.handlers:
            for _, method, path, status, seconds, request_id, app, route, _ in requests:
                about = {"request_id": request_id, "application": app, "route": route}
                logger.info("%s %s %d %.1fms", method, path.decode("latin-1"), status, seconds * 1000, extra=about)
