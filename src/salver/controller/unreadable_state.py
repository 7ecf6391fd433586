"""What is saved cannot be read: the controller decides nothing, and tells everyone who asks why.

It must not begin, for it would take all that runs for unwanted. Were it to end, and to be started again and again,
whoever asks for the status would wait in a backlog and be told nothing. So it stays, answers every request of the
control API with the reason and what to do, looks again every second, and takes over as soon as there is something to
read.
"""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Receive, Scope, Send

from salver.controller.api.answers import Refusal
from salver.controller.api.connection import Connection, SameUserConnection
from salver.controller.api.guard import AUTHORIZED, Guard
from salver.controller.api.listeners import Listener
from salver.controller.checkpoint import StateUnreadable
from salver.controller.controller import Controller
from salver.engine.local.admin_token import valid_tokens
from salver.engine.local.settings import ControllerStart
from salver.views import Happening

logger = logging.getLogger("salver.controller")

_LOOKED_AT_EVERY_S = 1.0

_ADVICE = (
    "Requests are served as before, but nothing can be deployed or looked at, and no replica that dies is replaced. "
    "Put one of these files back as it was: it goes on by itself within a second. Without them everything has to be "
    "deployed again; see 'The state cannot be read' in docs/operating.md."
)
_FOR_STRANGERS = "The controller cannot work; it says why to whoever shows the token."


async def start_when_readable(controller: Controller, start: ControllerStart, terminated: asyncio.Event) -> bool:
    """Start it as soon as what is saved can be read; False when it is to end before that."""
    refusals: _Refusals | None = None
    while True:
        try:
            await controller.start()
        except StateUnreadable as error:
            if refusals is None:
                refusals = _Refusals(start)
                controller.tell(Happening("controller", f"decides nothing: {error}"))
            refusals.explain(str(error))
        else:
            if refusals is not None:
                controller.tell(Happening("controller", "the saved state can be read again; everything went on"))
                await refusals.stop()
            return True
        if await _comes_within(terminated, _LOOKED_AT_EVERY_S):
            await refusals.stop()
            return False


async def _comes_within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    return True


class _Refusals:
    """The control API while nothing can be answered. On duplicates of the sockets: those are needed later.

    Args:
        start: where to listen, and who may know why.
    """

    def __init__(self, start: ControllerStart) -> None:
        instance, listening = start.instance, start.listening
        self._reason = ""
        self._listeners = [Listener(self._refuse, SameUserConnection, [listening.control.dup()])]
        if listening.admin:
            guard = Guard(self._refuse, lambda: valid_tokens(instance), self._allowed_hosts)
            self._listeners.append(Listener(guard, Connection, [each.dup() for each in listening.admin]))
        self._instance = instance
        self._serving = [asyncio.create_task(listener.serve()) for listener in self._listeners]

    def explain(self, reason: str) -> None:
        """This is why, from now on."""
        if reason != self._reason:
            self._reason = reason
            logger.error("the controller decides nothing: %s", reason)

    async def stop(self) -> None:
        for listener in self._listeners:
            listener.stop()
        await asyncio.gather(*self._serving)

    def _allowed_hosts(self) -> tuple[str, ...]:
        admin = self._instance.info().admin
        return () if admin is None else admin.allowed_hosts

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        may_know = scope.get(AUTHORIZED, True)  # on the Unix socket everyone is the user
        detail = f"The controller decides nothing: {self._reason}\n{_ADVICE}" if may_know else _FOR_STRANGERS
        await Refusal(503, detail).answer()(scope, receive, send)
