"""Two ways to run an application, behind one face: inside the test's process, and in processes of its own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from harness.waiting import eventually
from salver import serve
from salver.controller.http_exchange import exchange
from salver.controller.metrics_store import MetricsStore
from salver.serve.deployment import Application
from salver.serve.handle import DeploymentHandle
from salver.telemetry.metrics import registry

WITHIN_S = 30.0

CUT = (ConnectionError, httpx.RemoteProtocolError)
"""What a client raises whose answer does not come to its end."""


@serve.deployment
def nothing() -> None:
    """The application that is run first, so that what belongs to the instance is there before any test."""


class World:
    """Where a suite runs its applications, until ``serve.shutdown``.

    Attributes:
        kind: ``local`` or ``processes``, for the few things that differ on purpose.
    """

    kind: str

    def run(
        self, application: Application, name: str = "app", route_prefix: str | None = "/"
    ) -> DeploymentHandle[Any]:
        raise NotImplementedError

    def client(self) -> AbstractContextManager[Any]:
        """A client with the methods that httpx and LocalClient have in common."""
        raise NotImplementedError

    def websocket(self, path: str, subprotocols: list[str]) -> AbstractContextManager[WebSocket]:
        raise NotImplementedError

    def metric_families(self) -> list[dict[str, Any]]:
        raise NotImplementedError

    def request(self, method: str, path: str, **options: Any) -> Any:
        with self.client() as client:
            return client.request(method, path, **options)

    def get(self, path: str, **options: Any) -> Any:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> Any:
        return self.request("POST", path, **options)

    @contextmanager
    def stream(self, path: str, **options: Any) -> Generator[Any]:
        with self.client() as client, client.stream("GET", path, **options) as answer:
            yield answer

    def metric(self, name: str, **tags: str) -> float:
        """Sum over the series with these tags; of a histogram, of its counts."""
        families = {family["name"]: family["series"] for family in self.metric_families()}
        return sum(
            series["value"] if "value" in series else series["count"]
            for series in families.get(name, [])
            if tags.items() <= series["tags"].items()
        )

    def empty(self) -> None:
        """Delete every application."""
        for name in serve.status().applications:
            serve.delete(name)


class WebSocket(Protocol):
    """What LocalWebSocket and the adapter below have in common."""

    subprotocol: str | None

    def send_text(self, text: str) -> None: ...

    def send_bytes(self, data: bytes) -> None: ...

    def receive(self) -> str | bytes:
        """Raises WebSocketDisconnect."""
        ...

    def close(self, code: int = 1000, reason: str = "") -> None: ...


class Local(World):
    kind = "local"

    def __init__(self) -> None:
        self.run(nothing.bind()).remote().result(timeout_s=WITHIN_S)
        self.empty()

    def run(
        self, application: Application, name: str = "app", route_prefix: str | None = "/"
    ) -> DeploymentHandle[Any]:
        return serve.run(application, name=name, route_prefix=route_prefix, local=True)

    @contextmanager
    def client(self) -> Generator[Any]:
        yield serve.local_client(timeout_s=WITHIN_S)

    @contextmanager
    def websocket(self, path: str, subprotocols: list[str]) -> Generator[WebSocket]:
        with serve.local_client(timeout_s=WITHIN_S).websocket_connect(path, subprotocols) as websocket:
            yield websocket

    def metric_families(self) -> list[dict[str, Any]]:
        return msgspec.to_builtins(MetricsStore(registry).families())


class Processes(World):
    kind = "processes"

    def __init__(self) -> None:
        serve.start(http_options={"port": 0})
        self.url = serve.status().instance.url.rstrip("/")
        self.run(nothing.bind()).remote().result(timeout_s=WITHIN_S)
        self.empty()

    def run(
        self, application: Application, name: str = "app", route_prefix: str | None = "/"
    ) -> DeploymentHandle[Any]:
        return serve.run(application, name=name, route_prefix=route_prefix)

    @contextmanager
    def client(self) -> Generator[Any]:
        with httpx.Client(base_url=self.url, timeout=WITHIN_S, trust_env=False) as client:
            yield client

    @contextmanager
    def websocket(self, path: str, subprotocols: list[str]) -> Generator[WebSocket]:
        url = self.url.replace("http", "ws", 1) + path
        offered: Any = subprotocols or None
        with connect(url, subprotocols=offered, proxy=None, open_timeout=WITHIN_S) as connection:
            yield _OverTheNetwork(connection)

    def metric_families(self) -> list[dict[str, Any]]:
        path = self._control_socket()
        status, body = exchange(path, "GET", "/api/serve/metrics", None, WITHIN_S)
        assert status == 200
        return msgspec.json.decode(body)

    def _control_socket(self) -> Path:
        from salver.serve.session import InstanceSession, current_session

        session = current_session()
        assert isinstance(session, InstanceSession)
        return session.instance.control_socket


class _OverTheNetwork:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.subprotocol = connection.subprotocol

    def send_text(self, text: str) -> None:
        self._connection.send(text)

    def send_bytes(self, data: bytes) -> None:
        self._connection.send(data)

    def receive(self) -> str | bytes:
        try:
            return self._connection.recv(WITHIN_S)
        except ConnectionClosed as closed:
            if closed.rcvd is None:
                raise
            raise WebSocketDisconnect(closed.rcvd.code, closed.rcvd.reason) from None

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._connection.close(code, reason)


def soon(what: str, condition: Any) -> Any:
    return eventually(what, condition, WITHIN_S)
