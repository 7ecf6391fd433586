"""Attributes that log records carry for any handler, filter or formatter, the user's included: whose they are.

Records of Salver's and the user's Serve loggers, and of all loggers below them, get the attributes of the request
that they belong to. They are set where a record is made, since only that is in the request's context for sure: a
handler may run in another thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

OUR_LOGGERS = ("salver", "ray.serve")

MakeRecord = Callable[..., logging.LogRecord]


def add_record_attributes(attributes: Callable[[], dict[str, str]]) -> Callable[[], None]:
    """Have every record of ``ray.serve``, ``salver`` and loggers below them carry what ``attributes`` answers.

    It is asked in the thread and the context that logs. Returns how to stop, in whatever order several were added.
    """
    factory = _RecordFactory(logging.getLogRecordFactory(), attributes)
    logging.setLogRecordFactory(factory)
    return factory.remove


class _RecordFactory:
    """Makes records as before, and adds to those of ours. Factories form a chain: everybody wraps the one before."""

    def __init__(self, before: MakeRecord, attributes: Callable[[], dict[str, str]]) -> None:
        self._before = before
        self._attributes = attributes
        self._removed = False

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self._before(name, *args, **kwargs)
        if not self._removed and is_below(name, OUR_LOGGERS):
            ours = self._attributes()
            record.__dict__ = _Attributes({**record.__dict__, **ours}, ours)
        return record

    def remove(self) -> None:
        """Add nothing more; leave the chain where we are its end, and with us those that were removed before."""
        self._removed = True
        last = logging.getLogRecordFactory()
        while isinstance(last, _RecordFactory) and last._removed:
            last = last._before
        logging.setLogRecordFactory(last)


class _Attributes(dict[str, Any]):
    """A record's attributes, of which ``Logger.makeRecord`` believes that ours are not there yet.

    It raises KeyError when a call's ``extra`` has the name of an attribute that exists, and programs that know
    nothing of ours write ``extra={"request_id": ...}``. With this, theirs replaces ours.
    """

    def __init__(self, everything: dict[str, Any], ours: dict[str, str]) -> None:
        super().__init__(everything)
        self._ours = ours

    def __contains__(self, name: object) -> bool:
        return name not in self._ours and super().__contains__(name)

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (dict(self),)  # records are pickled, for queues between processes


def is_below(name: str, loggers: tuple[str, ...]) -> bool:
    """Whether a logger is one of ``loggers`` or below one of them."""
    return any(name == each or name.startswith(f"{each}.") for each in loggers)
