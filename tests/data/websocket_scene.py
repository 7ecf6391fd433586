"""A real proxy in front of a real replica, and a client that writes every byte of a WebSocket by hand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

from starlette.websockets import WebSocket

from salver.controller.publisher import Publisher
from salver.data.channel import connect_unix
from salver.data.http.limits import HTTPLimits
from salver.data.http.options import ProxyOptions
from salver.data.http.proxy import Proxy
from salver.data.load_board import LoadBoard
from salver.wire.messages import PROTOCOL_VERSION, Hello
from salver.wire.snapshot import ApplicationRoute, DeploymentRoute, ReplicaRoute, Snapshot

from .scene import KEY, RunningReplica, Scene

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY_HEADER = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT_OF_KEY = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # from RFC 6455, section 1.3
HANDSHAKE = (b"Connection: Upgrade", b"Upgrade: websocket", KEY_HEADER, b"Sec-WebSocket-Version: 13")
MASK = b"\x12\x34\x56\x78"

Handler = Callable[[WebSocket], Awaitable[None]]
HANDLERS: dict[str, Handler] = {}


class Hosted:
    """The user's class: an ASGI application that hands every WebSocket to a function of the test."""

    def __init__(self, name: str) -> None:
        self._handler = HANDLERS[name]

    def __serve_build_asgi_app__(self) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "websocket"
            await self._handler(WebSocket(scope, receive, send))

        return app


class Plain:
    """An ingress that is no ASGI application."""

    def __call__(self) -> str:
        return "plain"


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return
        await websocket.send({**message, "type": "websocket.send"})


class Head(NamedTuple):
    """The head of an HTTP answer."""

    status: int
    headers: dict[str, str]


class WireFrame(NamedTuple):
    """A frame of the server."""

    opcode: int
    payload: bytes
    fin: bool = True
    compressed: bool = False


class Wire:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    # --- HTTP ---

    def ask(self, path: bytes = b"/", *headers: bytes, method: bytes = b"GET") -> None:
        lines = [b"%s %s HTTP/1.1" % (method, path), b"Host: h", *headers]
        self.writer.write(b"\r\n".join(lines) + b"\r\n\r\n")

    async def head(self) -> Head:
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = text.split("\r\n")[:-2]
        pairs = (field.split(": ", 1) for field in fields)
        return Head(int(line.split(" ")[1]), {name.lower(): value for name, value in pairs})

    async def answer(self) -> tuple[Head, bytes]:
        """An answer over HTTP, after which the connection must end."""
        head = await self.head()
        body = await self.reader.read()
        assert head.headers["connection"] == "close"
        assert len(body) == int(head.headers["content-length"])
        return head, body

    async def open(self, path: bytes = b"/", *headers: bytes) -> Head:
        self.ask(path, *HANDSHAKE, *headers)
        head = await self.head()
        assert head.status == 101, (head, await self.reader.read())
        return head

    # --- WebSocket ---

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> None:
        self.writer.write(frame(opcode, payload, fin=fin, rsv=rsv))

    async def next(self) -> WireFrame:
        first, second = await self.reader.readexactly(2)
        assert not second & 0x80, "a server does not mask"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
        return WireFrame(first & 0x0F, await self.reader.readexactly(size), bool(first & 0x80), bool(first & 0x40))

    async def closed(self) -> tuple[int, str]:
        """The server's close, before which nothing else may come but control frames; answered."""
        while (received := await self.next()).opcode in {PING, PONG}:
            pass
        assert received.opcode == CLOSE, received
        self.send(CLOSE, received.payload)
        (code,) = struct.unpack("!H", received.payload[:2])
        return code, received.payload[2:].decode()

    async def ended(self) -> None:
        """Nothing more comes, and the connection has ended in order."""
        assert await self.reader.read() == b""

    def hang_up(self) -> None:
        self.writer.transport.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A client's frame."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    mask_bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head += bytes([mask_bit | size])
    elif size < 65536:
        head += bytes([mask_bit | 126]) + struct.pack("!H", size)
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    key = MASK * (size // 4 + 1)
    xored = int.from_bytes(payload, "big") ^ int.from_bytes(key[:size], "big")
    return head + MASK + xored.to_bytes(size, "big")


def close_payload(code: int, reason: str = "") -> bytes:
    return struct.pack("!H", code) + reason.encode()


class Site:
    """A proxy that listens, its routing table, and the replica behind it."""

    def __init__(self, scene: Scene, proxy: Proxy, publisher: Publisher, replica: RunningReplica, port: int) -> None:
        self.scene = scene
        self.proxy = proxy
        self.replica = replica
        self.port = port
        self._publisher = publisher
        self._version = 0

    def publish(
        self, routes: Iterable[ReplicaRoute], *, capacity: int, max_queued: int = -1, unavailable: str = ""
    ) -> None:
        self._version += 1
        deployment = DeploymentRoute("app#d", tuple(routes), capacity, max_queued, unavailable)
        self._publisher.publish(Snapshot(1, self._version, (ApplicationRoute("app", "/app", "d"),), (deployment,)))

    async def connect(self, **options: Any) -> Wire:
        """``options`` as those of ``asyncio.open_connection``."""
        return Wire(*await asyncio.open_connection("127.0.0.1", self.port, **options))

    async def connections_gone(self) -> None:
        """Until the proxy has let go of every client."""
        while self.proxy._connections:
            await asyncio.sleep(0.01)

    async def slots_free(self) -> None:
        """Until no application runs in the replica."""
        while self.replica.load:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(
    handler: Handler | None, *, capacity: int = 10, limits: HTTPLimits | None = None, **route: Any
) -> AsyncGenerator[Site]:
    """A site below ``/app``; None for an ingress that is no ASGI application.

    Keyword arguments: ``capacity`` of the replica, ``limits`` of the proxy, more as in ``Site.publish``.
    """
    async with Scene() as scene:
        name = f"handler-{id(scene)}"
        HANDLERS[name] = handler or echo
        publisher = Publisher(KEY)
        path = scene.folder / "routing.sock"
        routing = await asyncio.get_running_loop().create_unix_server(publisher.accept, str(path))
        proxy = Proxy(
            connect=connect_unix,
            controller_address=f"unix:{path}",
            hello=Hello(PROTOCOL_VERSION, KEY, "proxy"),
            board=LoadBoard(),  # closed with the proxy; nobody else calls these replicas
            options=ProxyOptions(limits=limits or HTTPLimits()),
        )
        user = (Hosted, name) if handler is not None else (Plain,)
        replica = await scene.replica(*user, capacity=capacity)
        listening = socket.create_server(("127.0.0.1", 0))
        site = Site(scene, proxy, publisher, replica, listening.getsockname()[1])
        try:
            site.publish([replica.route], capacity=capacity, **route)
            await proxy.start([listening])
            yield site
        finally:
            await proxy.stop()
            routing.close()
            publisher.close()
            del HANDLERS[name]
