"""Everything in one process, for tests: the memory engine, a controller and this process's calls, in one thread."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from salver import __version__
from salver.controller.api_records import StatusAnswer
from salver.controller.checkpoint import MemoryCheckpoint
from salver.controller.client import ControlRefused
from salver.controller.controller import Controller, PrefixTaken
from salver.data.asgi_ingress import ASGIIngress
from salver.data.caller import Caller
from salver.data.current import CallSite, set_call_site
from salver.data.ingress import Ingress
from salver.data.load_board import LoadBoard
from salver.data.log_attributes import log_attributes
from salver.data.proxy_options import ProxyOptions
from salver.engine.local.instance import InstanceInfo
from salver.engine.memory import MemoryEngine, MemoryNetwork
from salver.records import ApplicationSpec, ApplicationView
from salver.serve.session import Session, adopt_session
from salver.telemetry.logs import add_record_attributes
from salver.wire.messages import PROTOCOL_VERSION, Hello

_ROUTING = "memory:routing"
_STARTED_WITHIN_S = 10.0
_STOPPED_WITHIN_S = 10.0

T = TypeVar("T")


def start_local_session() -> Session:
    """Make this process an instance of its own."""
    session = LocalTestingSession()
    session.start()
    return adopt_session(session)


class LocalTestingSession:
    """A session without processes; also its own ``Control``. ``start`` before use."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="salver-local", daemon=True)
        self._board = LoadBoard()
        self._key = secrets.token_bytes(32)
        self._network = MemoryNetwork()
        engine = MemoryEngine(self._network, self._board, self._key, os.getpid())
        self._controller = Controller(
            engine=engine,
            checkpoint=MemoryCheckpoint(),
            connect=self._network.connect,
            key=self._key,
            epoch=1,
        )
        self._site: CallSite | None = None
        self.asgi: ASGIIngress | None = None
        """Its HTTP side, while it runs."""
        self._leave_logging: Callable[[], None] | None = None
        self._info = InstanceInfo("local", os.getpid(), "", 0, 0, time.time(), __version__)

    def start(self) -> None:
        self._thread.start()
        self._leave_logging = add_record_attributes(log_attributes)
        self._site = self._wait(self._start(), _STARTED_WITHIN_S)
        set_call_site(self._site)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _start(self) -> CallSite:
        await self._controller.start()
        self._network.listen(_ROUTING, self._controller.publisher.accept)
        caller = Caller(
            connect=self._network.connect,
            controller_address=_ROUTING,
            hello=Hello(PROTOCOL_VERSION, self._key, "local"),
            board=self._board,
        )
        options = ProxyOptions()
        self.asgi = ASGIIngress(Ingress(caller, options), self._loop, options.limits)
        caller.start()
        return CallSite(self._loop, caller)

    def _wait(self, work: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    # --- Session ----------------------------------------------------------------------------------------

    @property
    def control(self) -> LocalTestingSession:
        return self

    @property
    def is_running(self) -> bool:
        return self._site is not None

    def call_site(self) -> CallSite:
        assert self._site is not None
        set_call_site(self._site)
        return self._site

    def shutdown(self) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Run a coroutine on the session's loop, for another thread. Raises TimeoutError."""
        return self._wait(work, timeout_s)

    def close(self) -> None:
        site, self._site = self._site, None
        if site is None:
            return
        set_call_site(None)
        if self._leave_logging is not None:
            self._leave_logging()
        self._wait(self._stop(site), _STOPPED_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOPPED_WITHIN_S)
        self._loop.close()

    async def _stop(self, site: CallSite) -> None:
        await self._controller.stop()
        await site.caller.stop()

    # --- Control ----------------------------------------------------------------------------------------

    def deploy(self, spec: ApplicationSpec) -> None:
        async def deploy() -> None:
            try:
                self._controller.deploy(spec)
            except PrefixTaken as error:
                raise ControlRefused(str(error)) from error

        self._wait(deploy(), _STARTED_WITHIN_S)

    def delete(self, name: str, wait_s: float) -> bool:
        async def delete() -> bool:
            self._controller.delete(name)
            return await self._controller.wait_until_gone(name, wait_s)

        return self._wait(delete(), None)

    def status(self) -> StatusAnswer:
        async def views() -> tuple[ApplicationView, ...]:
            return self._controller.views()

        return StatusAnswer(self._info, os.getpid(), (), self._wait(views(), _STARTED_WITHIN_S))

    def wait_settled(self, name: str, wait_s: float) -> ApplicationView | None:
        async def settled() -> ApplicationView | None:
            await self._controller.wait_until_settled(name, wait_s)
            return next((view for view in self._controller.views() if view.name == name), None)

        return self._wait(settled(), None)
