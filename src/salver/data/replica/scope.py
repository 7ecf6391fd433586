"""What a request has called and not been answered yet, so that cancelling the request cancels that too.

The scope of a request is its ``Invocation``, found through a context variable, which tasks and threads of user code
inherit. The set in it is made with the first call: most requests call nobody.

Calls that user code makes after the cancellation are not cancelled: whoever catches ``CancelledError`` must be able
to clean up elsewhere.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Protocol


class CancellableCall(Protocol):
    """A call that is under way."""

    def cancel(self) -> None:
        """Nobody wants its answer; called on the loop of the process's call site."""
        ...


class RequestScope:
    """The calls of one request. ``add`` and ``discard`` may be used from any thread."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: set[CancellableCall] | None = None

    def add(self, call: CancellableCall) -> None:
        calls = self._calls
        if calls is None:
            with _making:
                if self._calls is None:
                    self._calls = set()
                calls = self._calls
        calls.add(call)

    def discard(self, call: CancellableCall) -> None:
        if self._calls is not None:
            self._calls.discard(call)

    def cancel_calls(self) -> None:
        """Cancel everything that was called and has not answered, awaited or not."""
        if self._calls is not None:
            for call in list(self._calls):  # one step for the interpreter: threads may add meanwhile
                call.cancel()


_making = threading.Lock()

request_scope: ContextVar[RequestScope | None] = ContextVar("salver_request_scope", default=None)
