"""Where the control API listens.

The server is our own, and small: uvicorn would import a command line, multiprocessing and a watcher of files with it,
3 MB and 20 ms of each controller, and would look ten times a second whether it is to end.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from functools import partial

from starlette.types import ASGIApp

from salver.controller.api.connection import Connection

_BACKLOG = 2048
_ENDS_WITHIN_S = 1.0


class Listener:
    """One ASGI application on some sockets.

    Args:
        application: what answers.
        connection: which connections are listened to.
        sockets: that listen; closed in the end.
    """

    def __init__(self, application: ASGIApp, connection: type[Connection], sockets: Sequence[socket.socket]) -> None:
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accept = partial(connection, application, self._connections, self._tasks)
        self._sockets = list(sockets)
        self._stopping = asyncio.Event()

    async def serve(self) -> None:
        """Serve until ``stop``; requests that have begun get their answer, if that takes no longer than a second."""
        loop = asyncio.get_running_loop()
        servers = [
            await (loop.create_unix_server if each.family == socket.AF_UNIX else loop.create_server)(
                self._accept, sock=each, backlog=_BACKLOG
            )
            for each in self._sockets
        ]
        await self._stopping.wait()
        for server in servers:
            server.close()
        for connection in list(self._connections):
            connection.end()
        await self._wait_for_the_last()

    async def _wait_for_the_last(self) -> None:
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                for connection in list(self._connections):
                    await connection.closed.wait()
        except TimeoutError:
            for task in list(self._tasks):
                task.cancel()
            for connection in list(self._connections):
                connection.abort()

    def stop(self) -> None:
        self._stopping.set()
