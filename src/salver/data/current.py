"""How this process reaches deployments: set once, used by every handle in it.

A process has one caller, on one event loop. In a replica that is the replica's own loop; in a driver script or a
notebook it is a loop in a thread of ours. Handles are used from anywhere: other threads and other loops go through
``call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from threading import get_ident
from typing import TypeVarTuple, Unpack

from salver.data.channel import Connect
from salver.data.load_board import LoadBoard
from salver.data.routing.caller import Caller
from salver.errors import ServeException
from salver.wire.messages import Hello

Args = TypeVarTuple("Args")


class CallSite:
    """A caller and the loop that it lives on.

    Args:
        thread: identifier of the thread that runs the loop, and nothing but it; default this one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, caller: Caller, thread: int | None = None) -> None:
        self.loop = loop
        self.caller = caller
        self._thread = get_ident() if thread is None else thread

    @property
    def is_here(self) -> bool:
        """Whether this code runs on the caller's loop. By thread: to ask for the running loop is a system call."""
        return get_ident() == self._thread

    def run(self, function: Callable[[Unpack[Args]], object], *args: *Args) -> None:
        """Call ``function`` on the caller's loop: now when that is here, else soon."""
        if self.is_here:
            function(*args)
        else:
            self.loop.call_soon_threadsafe(function, *args)


_current: CallSite | None = None
_connect_driver: Callable[[], CallSite] | None = None


def serve_calls_from(
    *, connect: Connect, controller_address: str, hello: Hello, board: LoadBoard | None
) -> Callable[[], Awaitable[None]]:
    """Make handles of this process work, on the running loop; returns how to stop.

    The subscription to the routing table begins with the first call: most replicas call nobody.
    """
    caller = Caller(connect=connect, controller_address=controller_address, hello=hello, board=board)
    site = CallSite(asyncio.get_running_loop(), caller)
    set_call_site(site)

    async def stop() -> None:
        if _current is site:
            set_call_site(None)
        await caller.stop()

    return stop


def set_call_site(site: CallSite | None) -> None:
    global _current
    _current = site


def on_first_call(connect: Callable[[], CallSite]) -> None:
    """What a process that is not ours does when a handle is used and nothing is connected."""
    global _connect_driver
    _connect_driver = connect


def call_site() -> CallSite:
    """This process's way to deployments. Raises ServeException when there is none."""
    site = _current
    if site is None:
        if _connect_driver is None:
            raise ServeException("No instance is connected: call serve.run or serve.start first.")
        site = _connect_driver()
    return site
