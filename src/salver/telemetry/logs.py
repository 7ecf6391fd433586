"""Log lines of our own processes: ``LEVEL time component id [request id] -- message`` on stderr.

Only processes that are ours configure logging; ``import salver`` never does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

_USER_LOGGERS = ("ray.serve", "salver.serve")
_ESCAPES = {code: f"\\x{code:02x}" for code in range(32) if code not in {9, 10}} | {127: "\\x7f"}


class _Formatter(logging.Formatter):
    """Adds who speaks and for which request; control characters of logged input are escaped."""

    def __init__(self, component: str, identity: str, request_id: Callable[[], str]) -> None:
        super().__init__()
        self._component = component
        self._identity = identity
        self._request_id = request_id

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        request_id = self._request_id()
        about = f" {request_id}" if request_id else ""
        who = f"{self._component} {self._identity}{about}"
        text = record.getMessage().translate(_ESCAPES)
        where = f"{record.filename}:{record.lineno} " if record.name in _USER_LOGGERS else ""
        return f"{record.levelname} {self.formatTime(record)} {who} -- {where}{text}"


def configure_logging(component: str, identity: str, request_id: Callable[[], str] = lambda: "") -> None:
    """Send records of Salver's and the user's Serve loggers, from INFO on, to this process's stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(component, identity, request_id))
    for name in ("salver", "ray.serve"):
        named = logging.getLogger(name)
        named.handlers[:] = [handler]
        named.setLevel(logging.INFO)
        named.propagate = False
