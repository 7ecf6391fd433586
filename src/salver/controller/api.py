"""The control API: everything a person can ask of an instance, as HTTP on a Unix socket of this user.

Bodies of deployments are msgpack records with the user's code as opaque bytes; answers are JSON. Who may connect is
decided by the socket's folder (0700) and by the peer's user id, before a byte of a request is read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from salver.controller.api_records import StatusAnswer
from salver.controller.controller import Controller, PrefixTaken
from salver.data.channel import same_user
from salver.engine.local.instance import InstanceInfo
from salver.records import ApplicationSpec

_WAIT_AT_MOST_S = 60.0


class SameUserProtocol(HttpToolsProtocol):
    """Refuses peers that run as somebody else."""

    def connection_made(self, transport: Any) -> None:
        if same_user(transport):
            super().connection_made(transport)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if getattr(self, "flow", None) is not None:
            super().connection_lost(exc)


class ControlServer:
    """Serves the control API of one controller."""

    def __init__(self, controller: Controller, info: Callable[[], InstanceInfo], pid: int) -> None:
        self._controller = controller
        self._info = info
        self._pid = pid
        routes = [
            Route("/api/v1/applications/{name}", self._deploy, methods=["PUT"]),
            Route("/api/v1/applications/{name}", self._delete, methods=["DELETE"]),
            Route("/api/v1/status", self._status, methods=["GET"]),
            Route("/api/serve/metrics", self._metrics, methods=["GET"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            http=SameUserProtocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)

    async def serve(self, listening: socket.socket) -> None:
        """Serve until ``stop``."""
        await self._server.serve(sockets=[listening])

    async def stop(self) -> None:
        self._server.should_exit = True
        await asyncio.sleep(0)

    # --- endpoints --------------------------------------------------------------------------------------

    async def _deploy(self, request: Request) -> Response:
        """Accept an application; the answer comes before it runs (``/status`` waits)."""
        try:
            spec = msgspec.msgpack.decode(await request.body(), type=ApplicationSpec)
        except msgspec.DecodeError as error:
            return _problem(400, f"not an application: {error}")
        if spec.name != request.path_params["name"]:
            return _problem(400, f"the path names '{request.path_params['name']}', the body '{spec.name}'")
        try:
            self._controller.deploy(spec)
        except PrefixTaken as error:
            return _problem(409, str(error))
        return _json({})

    async def _delete(self, request: Request) -> Response:
        """Delete an application and wait until it is gone, at most ``wait_s`` seconds (default 0)."""
        name = request.path_params["name"]
        self._controller.delete(name)
        gone = await self._controller.wait_until_gone(name, _wait_s(request))
        return _json({"gone": gone})

    async def _status(self, request: Request) -> Response:
        """Everything. With ``settled=NAME`` wait up to ``wait_s`` until that application runs or has failed."""
        name = request.query_params.get("settled")
        if name is not None:
            await self._controller.wait_until_settled(name, _wait_s(request))
        proxies = tuple(await self._controller.proxy_pids())
        return _json(StatusAnswer(self._info(), self._pid, proxies, self._controller.views()))

    async def _metrics(self, _request: Request) -> Response:
        """Every metric of the instance, added up over its processes."""
        return _json(self._controller.metrics.families())


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Signals belong to the process, not to this server."""

    def capture_signals(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()


def _wait_s(request: Request) -> float:
    try:
        return min(max(float(request.query_params.get("wait_s", "0")), 0.0), _WAIT_AT_MOST_S)
    except ValueError:
        return 0.0


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _problem(status: int, detail: str) -> Response:
    body = {"type": "about:blank", "status": status, "detail": detail}
    return Response(msgspec.json.encode(body), status, media_type="application/problem+json")
