"""The control API of one controller: one table of routes, on the Unix socket and, when asked, on TCP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from starlette.types import ASGIApp

from salver.controller.api.applications import ApplicationRoutes
from salver.controller.api.checks import CheckRoutes
from salver.controller.api.connection import Connection, SameUserConnection
from salver.controller.api.guard import Guard
from salver.controller.api.listeners import Listener
from salver.controller.api.observation import ObservationRoutes
from salver.controller.api.openapi import document_endpoint
from salver.controller.api.routing import Endpoint, Routes
from salver.controller.api.subject import Configs, Subject
from salver.controller.controller import Controller
from salver.engine.local.instance import InstanceInfo


class ControlServer:
    """Serves the control API of one controller.

    Args:
        controller: what decides.
        info: what the instance says about itself.
        pid: of the controller, as status shows it.
        end_instance: asks the supervisor to end the instance.
        tokens: those that are valid on TCP now; without any, nobody is let in there.
        configs: what builds applications from configs; None where nothing does.
        logs: the folder of the instance's log files; empty when it has none.
    """

    def __init__(
        self,
        controller: Controller,
        info: Callable[[], InstanceInfo],
        *,
        pid: int,
        end_instance: Callable[[], None],
        tokens: Callable[[], tuple[str, ...]] = tuple,
        configs: Configs | None = None,
        logs: str = "",
    ) -> None:
        self._controller = controller
        self._configs = configs
        self._logs = logs
        self._info = info
        self._pid = pid
        self._end_instance = end_instance
        self._tokens = tokens
        self._listeners: list[Listener] = []

    async def serve(self, control: socket.socket, admin: Sequence[socket.socket] = ()) -> None:
        """Serve until ``stop``.

        Args:
            control: the Unix socket, for this user only.
            admin: TCP sockets, for whoever has a token.
        """
        self._listeners.append(Listener(Routes(self.endpoints(), over_network=False), SameUserConnection, [control]))
        if admin:
            self._listeners.append(Listener(self._guarded(), Connection, admin))
        async with asyncio.TaskGroup() as serving:
            for listener in self._listeners:
                serving.create_task(listener.serve())

    async def stop(self) -> None:
        """Answer those who wait, end. May be called twice."""
        self._controller.history.end_waits()
        for listener in self._listeners:
            listener.stop()
        await asyncio.sleep(0)

    def endpoints(self, *, over_network: bool = False) -> tuple[Endpoint, ...]:
        """Every route, as one of the listeners has it."""
        subject = Subject(
            self._controller,
            self._configs,
            self._info,
            self._pid,
            self._end_instance,
            logs=self._logs,
            over_network=over_network,
        )
        return (
            *ApplicationRoutes(subject).endpoints(),
            *CheckRoutes(subject).endpoints(),
            *ObservationRoutes(subject).endpoints(),
            document_endpoint(),
        )

    def _guarded(self) -> ASGIApp:
        routes = Routes(self.endpoints(over_network=True), over_network=True)
        return Guard(routes, self._tokens, self._allowed_hosts)

    def _allowed_hosts(self) -> tuple[str, ...]:
        admin = self._info().admin
        return () if admin is None else admin.allowed_hosts
