"""Handles in a script or a notebook: an event loop in a thread of ours, with this process's way to deployments."""

from __future__ import annotations

import asyncio
import os
import threading

import uvloop

from salver.data.channel import connect_unix
from salver.data.current import CallSite, set_call_site
from salver.data.load_board import LoadBoard
from salver.data.routing.caller import Caller
from salver.engine.local.instance import Instance
from salver.wire.messages import PROTOCOL_VERSION, Hello

_END_WITHIN_S = 2.5


class Driver:
    """This process as a caller of one instance. ``start`` before use; ``stop`` may be called twice."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="salver-driver", daemon=True)
        self._caller: Caller | None = None
        self.site: CallSite | None = None

    def start(self) -> CallSite:
        """Begin to serve this process's handles."""
        caller = Caller(
            connect=connect_unix,
            controller_address=self._instance.routing_address,
            hello=Hello(PROTOCOL_VERSION, self._instance.key(), f"driver {os.getpid()}"),
            board=LoadBoard(self._instance.board),
        )
        self._caller = caller
        self._thread.start()
        self.site = CallSite(self._loop, caller, self._thread.ident)
        set_call_site(self.site)
        return self.site

    def stop(self) -> None:
        if self._caller is None:
            return
        set_call_site(None)
        asyncio.run_coroutine_threadsafe(_leave(self._caller), self._loop).result(2 * _END_WITHIN_S)
        self._caller = None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()


async def _leave(caller: Caller) -> None:
    """Hang up, and let what still ran on this loop see it and end."""
    await caller.stop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=_END_WITHIN_S)
    await asyncio.sleep(0)  # the turn in which closed transports go
