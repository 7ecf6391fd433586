"""The control API over its real sockets: a server in a thread of its own, with a controller on the memory engine."""

from __future__ import annotations

import asyncio
import http.client
import os
import secrets
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from salver.controller.api import ControlServer
from salver.controller.api_records import CheckAnswer, Declaration, DeclaredAnswer
from salver.controller.build_messages import Mistake
from salver.controller.checkpoint import MemoryCheckpoint
from salver.controller.controller import Controller
from salver.controller.refusals import ConfigRefused, NoSuchCheck, Overtaken, TooManyChecks
from salver.data.load_board import LoadBoard
from salver.engine.local.admin import AdminOptions
from salver.engine.local.admin_token import create_token, valid_tokens
from salver.engine.local.instance import Instance, InstanceInfo
from salver.engine.memory import MemoryEngine, MemoryNetwork
from salver.records import ApplicationSpec, DeploymentId, DeploymentSpec, JsonDict
from salver.wire.payload import dump_definition

_T = TypeVar("_T")

INFO = InstanceInfo("test", 1, "127.0.0.1", 8000, 1, 0.0, "0", admin=AdminOptions(allowed_hosts=("allowed.example",)))

constructing = threading.Event()


class Model:
    def __call__(self) -> str:
        return "answer"


class Broken:
    def __init__(self) -> None:
        raise ValueError("no model here")


class Waits:
    async def __init__(self) -> None:  # type: ignore[misc]
        constructing.set()
        await asyncio.Event().wait()


def application(
    name: str = "app", route_prefix: str | None = "/", target: type = Model, replicas: int = 1
) -> ApplicationSpec:
    deployment = DeploymentSpec(
        DeploymentId(name, "d"),
        version="v1",
        definition=dump_definition((target, (), {})),
        num_replicas=replicas,
        max_constructor_failures=1,
    )
    return ApplicationSpec(name, route_prefix, "d", (deployment,))


class Build(NamedTuple):
    """How far a build is."""

    status: str
    message: str


class Checks:
    """Finds no fault with any config."""

    def __init__(self) -> None:
        self.begun: list[JsonDict] = []
        self.is_full = False

    def begin(self, config: JsonDict) -> str:
        if self.is_full:
            raise TooManyChecks(4)
        self.begun.append(config)
        return "known"

    async def wait(self, name: str, wait_s: float) -> CheckAnswer:
        if name != "known":
            raise NoSuchCheck(name)
        mistake = Mistake(("applications", 0), "applications[0]: is missing")
        return CheckAnswer(True, {"app": "pip: looks at http://user:hunter2@host"}, (mistake,))


class Configs:
    """Takes configs and builds nothing of them: the real thing starts processes."""

    def __init__(self) -> None:
        self.taken: JsonDict | None = None
        self.built_by: str | None = None
        self.states: dict[str, Build] = {}
        self.checks = Checks()

    async def declare(self, config: JsonDict, check: str | None = None) -> DeclaredAnswer:
        if "applications" not in config:
            raise ConfigRefused((Mistake((), "applications: is missing"), Mistake((), "htp_options: is unknown")))
        if check == "overtaken":
            raise Overtaken(7.0)
        self.taken, self.built_by = config, check
        return DeclaredAnswer(("tracing_config has no effect",), 7.5)

    def forget(self, name: str) -> None:
        self.states.pop(name, None)

    def config(self) -> JsonDict | None:
        return self.taken

    def builds(self) -> dict[str, Build]:
        return self.states

    def declaration(self) -> Declaration | None:
        return None if self.taken is None else Declaration(7.5)


class Server:
    """The control server in a thread and loop of its own.

    Attributes:
        path: of its Unix socket.
        port: of its TCP socket on 127.0.0.1.
        ends: how often it has asked for the instance's end.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "control.sock"
        self.instance = Instance(folder)
        create_token(self.instance)
        self.controller: Controller
        self.api: ControlServer
        self.configs = Configs()
        self.port = 0
        self.ends = 0
        self._loop: asyncio.AbstractEventLoop
        self._running = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        network, board, key = MemoryNetwork(), LoadBoard(), secrets.token_bytes(32)
        engine = MemoryEngine(network, board, key, os.getpid())
        self.controller = Controller(
            engine=engine, checkpoint=MemoryCheckpoint(), connect=network.connect, key=key, epoch=1
        )
        await self.controller.start()
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.path))
        listening.listen()
        admin = socket.create_server(("127.0.0.1", 0))
        self.port = admin.getsockname()[1]
        self.api = ControlServer(
            self.controller,
            lambda: INFO,
            pid=7,
            end_instance=self._count_end,
            tokens=lambda: valid_tokens(self.instance),
            configs=cast("Any", self.configs),
        )
        serving = asyncio.create_task(self.api.serve(listening, [admin]))
        self._running.set()
        await self._stop.wait()
        self.controller.end_waits()
        await self.api.stop()
        await serving
        await self.controller.stop()
        board.close()

    def _count_end(self) -> None:
        self.ends += 1

    @property
    def token(self) -> str:
        return valid_tokens(self.instance)[0]

    def call(self, function: Callable[[], _T]) -> _T:
        """Run something on the server's loop."""

        async def work() -> _T:
            return function()

        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)

    def start(self) -> None:
        self._thread.start()
        assert self._running.wait(30)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)
            assert not self._thread.is_alive()


@contextmanager
def connection(server: Server) -> Generator[http.client.HTTPConnection]:
    raw = http.client.HTTPConnection("localhost")
    raw.sock = socket.socket(socket.AF_UNIX)
    raw.sock.settimeout(30)
    raw.sock.connect(str(server.path))
    try:
        yield raw
    finally:
        raw.close()


def ask(server: Server, method: str, path: str, body: bytes | None = None) -> tuple[int, str | None, Any]:
    """Status, content type and decoded body, without the client's own opinions."""
    with connection(server) as raw:
        answer = _exchange(raw, method, path, body, {})
        return answer.status, answer.headers.get("content-type"), answer.body


class Answer(NamedTuple):
    """What came back; the body decoded if it is JSON."""

    status: int
    headers: dict[str, str]
    body: Any


def ask_tcp(
    server: Server,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    token: str | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """The same over TCP.

    Args:
        token: None for the right one, empty for none.
        headers: these as well, also instead of our own.
    """
    token = server.token if token is None else token
    authorization = {"authorization": f"Bearer {token}"} if token else {}
    raw = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        return _exchange(raw, method, path, body, {**authorization, **(headers or {})})
    finally:
        raw.close()


def _exchange(
    raw: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> Answer:
    raw.request(method, path, body, headers)
    response = raw.getresponse()
    data = response.read()
    own = {name.lower(): value for name, value in response.headers.items()}
    is_json = "json" in own.get("content-type", "") and data
    return Answer(response.status, own, msgspec.json.decode(data) if is_json else data)
