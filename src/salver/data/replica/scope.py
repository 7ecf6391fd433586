"""What a request has called and not been answered yet, so that cancelling the request cancels that too.

The scope of a request is its ``Invocation``, found through a context variable, which tasks and threads of user code
inherit.

Calls that user code makes after the cancellation are not cancelled: whoever catches ``CancelledError`` must be able
to clean up elsewhere.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from msgspec import Struct


class CancellableCall(Protocol):
    """A call that is under way."""

    def cancel(self) -> None:
        """Nobody wants its answer; called on the loop of the process's call site."""
        ...


class RequestScope(Struct, eq=False, kw_only=True):
    """The calls of one request. ``add`` and ``discard`` may be used from any thread."""

    _calls: dict[CancellableCall, None] = {}  # each gets its own; cheaper to make than a set

    __repr__ = object.__repr__

    def add(self, call: CancellableCall) -> None:
        self._calls[call] = None

    def discard(self, call: CancellableCall) -> None:
        self._calls.pop(call, None)

    def cancel_calls(self) -> None:
        """Cancel everything that was called and has not answered, awaited or not."""
        for call in list(self._calls):  # one step for the interpreter: threads may add meanwhile
            call.cancel()


request_scope: ContextVar[RequestScope | None] = ContextVar("salver_request_scope", default=None)
