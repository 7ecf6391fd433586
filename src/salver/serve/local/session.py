"""Everything in one process, for tests: the memory engine, a controller and this process's calls, in one thread.

Replicas, routers, frames, queues, deadlines and the HTTP ingress are those of real processes, and so is what users
see of them. Arguments and results are pickled, so copied; context variables do not cross a call. What differs,
because there is one process and one event loop, the session's, in a thread of its own:

* nothing is isolated: replicas share modules, their globals and class attributes with each other and with the test,
  ``os.getpid()`` is the same for all, and code that ends or crashes the process ends the test;
* code that blocks in ``async def``, or in a constructor, holds up all replicas, the routing and the ingress;
* what is killed is cancelled: a ``def`` that runs goes on in its thread, and its process waits for it at the end;
* ``serve.shutdown`` cancels what still runs; a real instance lets it finish. ``serve.delete`` lets it finish in both;
* the caller's queue (``max_queued_requests``) is one for the ingress, the test and all replicas together, since there
  is one caller;
* nothing listens: there are no sockets, so no TLS, no limits of connections, and no ``Date`` header;
* ``ray_actor_options`` have no effect (a record on ``salver.serve`` says so), the import path and the folder are this
  process's, and metrics are in this process's registry, those of earlier sessions included;
* logging is not configured: records go where the test sends them, with the same attributes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextvars import Context
from typing import Any, TypeVar, cast

import uvloop

from salver import __version__
from salver.controller.api_records import StatusAnswer
from salver.controller.checkpoint import MemoryCheckpoint
from salver.controller.client import ControlRefused
from salver.controller.controller import Controller
from salver.controller.refusals import PrefixTaken
from salver.data.current import CallSite, set_call_site
from salver.data.http.asgi_ingress import ASGIIngress
from salver.data.http.ingress import Ingress
from salver.data.http.options import ProxyOptions
from salver.data.load_board import LoadBoard
from salver.data.log_attributes import log_attributes
from salver.data.routing.caller import Caller
from salver.engine.local.instance import InstanceInfo
from salver.engine.memory import MemoryEngine, MemoryNetwork
from salver.errors import ServeException
from salver.records import ApplicationSpec
from salver.serve.session import Session, adopt_session
from salver.telemetry.record_attributes import add_record_attributes
from salver.views import ApplicationView
from salver.wire.messages import PROTOCOL_VERSION, Hello

logger = logging.getLogger("salver.serve")

_ROUTING = "memory:routing"
_ANSWERS_WITHIN_S = 60.0
"""How long user code may block the session's loop before whoever waits for it is told."""

_CONSTRUCTED_WITHIN_S = 3600.0
"""The same while an application starts: constructors block the loop for as long as a model takes to load."""

_ENDS_WITHIN_S = 5.0

_IGNORED = {
    "num_gpus": "GPUs are not assigned, and CUDA_VISIBLE_DEVICES is not set",
    "runtime_env": "replicas have the environment of this process",
    "accelerator_type": "it is not looked for",
    "memory": "it is not accounted",
    "resources": "they are not accounted",
}
"""What the options in ``ray_actor_options`` do not do here."""

T = TypeVar("T")


def start_local_session(options: ProxyOptions | None = None) -> Session:
    """Make this process an instance of its own.

    Args:
        options: of the HTTP ingress.
    """
    session = LocalTestingSession(options or ProxyOptions())
    session.start()
    return adopt_session(session)


class LocalTestingSession:
    """A session without processes; also its own ``Control``. ``start`` before use.

    Attributes:
        asgi: its HTTP side, while it runs.
    """

    def __init__(self, options: ProxyOptions) -> None:
        self._options = options
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
        self._ended = False
        self.asgi: ASGIIngress | None = None
        self._leave_logging: Callable[[], None] | None = None
        self._info = InstanceInfo("local", os.getpid(), "", 0, 0, time.time(), __version__)

    def start(self) -> None:
        self._thread.start()
        self._leave_logging = add_record_attributes(log_attributes)
        self._site = self.run(self._start())
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
        self.asgi = ASGIIngress(Ingress(caller, self._options), self._loop, self._options.limits)
        caller.start()
        return CallSite(self._loop, caller)

    def run(self, work: Coroutine[Any, Any, T], wait_s: float = 0.0, margin_s: float = _ANSWERS_WITHIN_S) -> T:
        """Run a coroutine on the session's loop, for another thread, in no request's context.

        Args:
            wait_s: how long it may take by itself.
            margin_s: how long user code may hold it up.

        Raises:
            RuntimeError: this is the loop's own thread.
            ServeException: user code blocks the loop, or the session has ended.
        """
        try:
            self._check_may_wait()
        except Exception:
            work.close()
            raise
        return self._run_soon(work, wait_s + margin_s)

    def _check_may_wait(self) -> None:
        if self._ended:
            raise _ended()
        if self._is_here:
            raise RuntimeError(
                "This waits for the local testing session and was called on its event loop, in `async def` or in a "
                "constructor: call it in `def`, or with asyncio.to_thread."
            )

    def _run_soon(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        running = Context().run(asyncio.run_coroutine_threadsafe, work, self._loop)
        try:
            return running.result(timeout_s)
        except CancelledError:
            raise _ended() from None
        except TimeoutError:
            if running.done():
                raise
            running.cancel()
            raise ServeException(
                f"The local testing session has not answered for {timeout_s:g} s: code of a replica blocks its event "
                "loop."
            ) from None

    @property
    def _is_here(self) -> bool:
        return threading.current_thread() is self._thread

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

    def close(self) -> None:
        if self._site is None:
            return
        self._check_may_wait()
        site, self._site = self._site, None
        self._ended = True
        set_call_site(None)
        if self._leave_logging is not None:
            self._leave_logging()
        try:
            self._run_soon(self._stop(site), _ANSWERS_WITHIN_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_ANSWERS_WITHIN_S)
            if not self._loop.is_running():
                self._loop.close()

    async def _stop(self, site: CallSite) -> None:
        await self._controller.stop()
        await site.caller.stop()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:  # clients that still read, and what user code has left running
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=_ENDS_WITHIN_S)

    # --- Control, also for replicas: they ask on the loop itself -----------------------------------------

    def deploy(self, spec: ApplicationSpec) -> float:
        _tell_of_ignored_options(spec)
        try:
            return self._call(lambda: self._controller.deploy(spec))
        except PrefixTaken as error:
            raise ControlRefused(str(error)) from error

    def delete(self, name: str, wait_s: float) -> bool:
        self._call(lambda: self._controller.delete(name))
        if not wait_s:
            return False
        return self.run(self._controller.wait_until_gone(name, wait_s), wait_s)

    def status(self) -> StatusAnswer:
        return StatusAnswer(self._info, os.getpid(), (), self._call(self._controller.views))

    def wait_settled(self, name: str, wait_s: float) -> ApplicationView | None:
        self.run(self._controller.wait_until_settled(name, wait_s), wait_s, _CONSTRUCTED_WITHIN_S)
        return next((view for view in self._call(self._controller.views) if view.name == name), None)

    def _call(self, function: Callable[[], T]) -> T:
        """Call the controller on its loop."""
        if self._is_here:
            return function()

        async def call() -> T:
            return function()

        return self.run(call())


def _ended() -> ServeException:
    return ServeException("The local testing session has ended.")


def _tell_of_ignored_options(spec: ApplicationSpec) -> None:
    """Into the log, not as warnings: the application is right, and suites that make warnings errors must run it."""
    for deployment in spec.deployments:
        wanted = cast("dict[str, object]", deployment.options.get("ray_actor_options") or {})
        for name, instead in _IGNORED.items():
            if wanted.get(name):
                logger.warning(
                    "local testing: %s of deployment '%s' has no effect: %s", name, deployment.id.name, instead
                )
