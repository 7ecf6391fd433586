"""Which instance this process works with, and whether it started it."""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path
from typing import Protocol

from salver.controller.client import Control, ControlClient
from salver.data.current import CallSite
from salver.engine.local.capacity import NOTHING_STATED, StatedCapacity
from salver.engine.local.instance import Instance, find_instance, stop_instance
from salver.engine.local.launcher import LaunchedInstance, launch
from salver.errors import ServeException
from salver.records import LoggingSpec
from salver.serve.config import HTTPOptions
from salver.serve.driver import Driver
from salver.serve.local.mode import local_testing_is_forced
from salver.telemetry.log_lines import DEFAULT_LOGGING

INSTANCE_FOLDER = "SALVER_INSTANCE_FOLDER"
"""Environment variable by which a replica knows its own instance."""


class Session(Protocol):
    """This process's connection to one instance."""

    @property
    def control(self) -> Control: ...

    @property
    def is_running(self) -> bool: ...

    def call_site(self) -> CallSite:
        """Make handles of this process call this instance."""
        ...

    def shutdown(self) -> None:
        """End the instance, whoever started it."""
        ...

    def close(self) -> None:
        """Stop calling; end the instance if it is ours. May be called twice."""
        ...


class InstanceSession:
    """A session with the processes of an instance.

    Args:
        instance: which.
        launched: set when this process started it, so that it ends with this process.
    """

    def __init__(self, instance: Instance, launched: LaunchedInstance | None = None) -> None:
        self.instance = instance
        self.launched = launched
        self.control = ControlClient(instance.control_socket)
        self._driver: Driver | None = None

    @property
    def is_running(self) -> bool:
        return self.instance.is_running()

    def call_site(self) -> CallSite:
        if self._driver is None or self._driver.site is None:
            self._driver = Driver(self.instance)
            return self._driver.start()
        return self._driver.site

    def shutdown(self) -> None:
        if self.launched is None:
            stop_instance(self.instance.info().pid)
        self.close()

    def close(self) -> None:
        if self._driver is not None:
            self._driver.stop()
            self._driver = None
        if self.launched is not None:
            self.launched.stop()


_lock = threading.RLock()
_session: Session | None = None


def launch_session(
    http: HTTPOptions,
    *,
    proxies: int = 1,
    stated: StatedCapacity = NOTHING_STATED,
    logging: LoggingSpec = DEFAULT_LOGGING,
) -> Session:
    """Start an instance that lives as long as this process. Raises StartupError, ConfigurationError."""
    launched = launch(
        host=http.host,
        port=http.port,
        proxies=proxies,
        options=http.for_proxies(),
        root_url=http.root_url,
        stated=stated,
        logging=logging,
    )
    return adopt_session(InstanceSession(launched.instance, launched))


def join_session(name: str | None) -> Session:
    """Use a running instance. Raises LookupError when there is none of that name, or several and no name."""
    return adopt_session(InstanceSession(find_instance(name)))


def current_session() -> Session | None:
    """The session of this process, if it has one whose instance still runs."""
    global _session
    with _lock:
        if _session is not None and not _session.is_running:
            _session.close()
            _session = None
        return _session


def connected_session() -> Session:
    """The session of this process; else the replica's own instance; else the only one that runs.

    Raises:
        ServeException: none runs, or several do.
    """
    session = current_session()
    if session is not None:
        return session
    folder = os.environ.get(INSTANCE_FOLDER)
    if folder:
        return InstanceSession(Instance(Path(folder)))
    if local_testing_is_forced():
        raise ServeException("Nothing runs here: local testing is forced, and serve.run was not called.")
    try:
        return join_session(None)
    except LookupError as error:
        raise ServeException(str(error)) from None


def close_session() -> None:
    """Forget the session; its instance ends if this process started it. May be called twice."""
    global _session
    with _lock:
        session, _session = _session, None
    if session is not None:
        session.close()


def adopt_session(session: Session) -> Session:
    """Make this the session of this process, in place of the one before, which is closed."""
    global _session
    close_session()
    with _lock:
        _session = session
    return session


atexit.register(close_session)
