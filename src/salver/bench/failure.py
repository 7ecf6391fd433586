"""Why a request has no whole answer: a kind that can be counted, and what it means in words."""

from __future__ import annotations

import errno
import ssl
from enum import Enum


class Failure(Enum):
    """What went wrong, by the name that reports have; ``words`` for people."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    LOCAL = "local"
    TLS = "tls"
    RESET = "reset"
    CLOSED = "closed"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    MALFORMED = "malformed"
    UNSENT = "unsent"

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Failure.REFUSED: "connection refused: nobody listens there, or no longer",
    Failure.UNREACHABLE: "there is no way to that address",
    Failure.LOCAL: "this machine has no more ports or file descriptors for connections",
    Failure.TLS: "the TLS handshake failed",
    Failure.RESET: "the server reset the connection",
    Failure.CLOSED: "the server closed the connection without an answer",
    Failure.TRUNCATED: "the server closed the connection within an answer",
    Failure.TIMEOUT: "no whole answer in time",
    Failure.MALFORMED: "the answer is not HTTP/1",
    Failure.UNSENT: "no connection became free in time",
}

_OURS = frozenset({errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def of_dial(error: OSError) -> Failure:
    """Of a connection that could not be made."""
    if isinstance(error, ssl.SSLError):
        return Failure.TLS
    if isinstance(error, ConnectionRefusedError):
        return Failure.REFUSED
    if isinstance(error, ConnectionError):
        return Failure.RESET
    if isinstance(error, TimeoutError):
        return Failure.TIMEOUT
    return Failure.LOCAL if error.errno in _OURS else Failure.UNREACHABLE


def of_loss(error: Exception | None, *, within_answer: bool) -> Failure:
    """Of a connection that was lost while its request ran.

    Args:
        error: what the event loop says; None when the other side has closed in good order.
        within_answer: whether some of the answer had come.
    """
    if within_answer:
        return Failure.TRUNCATED
    return Failure.CLOSED if error is None else Failure.RESET
