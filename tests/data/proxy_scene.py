"""A proxy with a real replica behind it, on one loop, and clients that are connected to it by TCP."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self

import trustme

from salver.controller.publisher import Publisher
from salver.data.channel import connect_unix
from salver.data.http.limits import HTTPLimits
from salver.data.http.options import ProxyOptions, TLSFiles
from salver.data.http.proxy import Proxy
from salver.data.load_board import LoadBoard
from salver.wire.snapshot import ApplicationRoute, Snapshot

from .scene import KEY, WITHIN_S, Scene, deployment_route, hello

_CAPACITY = 1000


class ProxyScene:
    """What ``serving`` gives.

    Attributes:
        publisher: what the proxy hears routing tables from.
        table: the one that it has in the beginning: the replica's application at ``/``.
        trust: a TLS context for clients, None for plain HTTP.
    """

    def __init__(
        self, proxy: Proxy, publisher: Publisher, table: Snapshot, port: int, trust: ssl.SSLContext | None
    ) -> None:
        self.proxy = proxy
        self.publisher = publisher
        self.table = table
        self.port = port
        self.trust = trust

    async def connect(self, *, receive_buffer: int | None = None) -> TCPClient:
        connected = socket.socket()
        if receive_buffer is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", self.port))
        client = TCPClient(connected, self.trust)
        if self.trust is not None:
            await client.shake_hands()
        return client

    async def get(self, path: bytes = b"/") -> bytes:
        """A whole answer, on a connection of its own."""
        async with await self.connect() as client:
            await client.send(b"GET %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % path)
            return await client.read_to_end()


class TCPClient:
    """A client that takes no more from the kernel than it is asked to read."""

    def __init__(self, connected: socket.socket, trust: ssl.SSLContext | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = trust and trust.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def shake_hands(self) -> None:
        assert self._tls is not None
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._loop.sock_recv(self._socket, 16384))
            else:
                await self._flush()
                return

    async def _flush(self) -> None:
        await self._loop.sock_sendall(self._socket, self._outgoing.read())

    async def send(self, data: bytes) -> None:
        if self._tls is None:
            await self._loop.sock_sendall(self._socket, data)
        else:
            self._tls.write(data)
            await self._flush()

    async def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; empty at the end of the connection, however it ends."""
        try:
            async with asyncio.timeout(WITHIN_S):
                return await (self._loop.sock_recv(self._socket, size) if self._tls is None else self._read_tls(size))
        except (ConnectionResetError, ssl.SSLZeroReturnError):
            return b""

    async def _read_tls(self, size: int) -> bytes:
        assert self._tls is not None
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                received = await self._loop.sock_recv(self._socket, size)
                if not received:
                    return b""
                self._incoming.write(received)

    async def read_to_end(self) -> bytes:
        data = b""
        while piece := await self.read(65536):
            data += piece
        return data

    async def flood(self, data: bytes) -> None:
        """Send ``data`` again and again, as long as the proxy listens."""
        try:
            while True:
                await self.send(data)
        except OSError:
            pass

    async def drip(self, data: bytes, every_s: float) -> float:
        """Send ``data`` byte by byte, as long as the proxy listens; the seconds until it no longer did."""
        began = time.monotonic()
        try:
            for position in range(len(data)):
                await self.send(data[position : position + 1])
                await asyncio.sleep(every_s)
        except OSError:
            pass
        return time.monotonic() - began


@asynccontextmanager
async def serving(target: object, limits: HTTPLimits, *, tls: bool = False) -> AsyncGenerator[ProxyScene]:
    """A proxy in front of one replica of the class ``target``."""
    async with Scene() as scene:
        replica = await scene.replica(target, capacity=_CAPACITY)
        publisher = Publisher(KEY)
        path = str(scene.folder / "routing.sock")
        routing = await asyncio.get_running_loop().create_unix_server(publisher.accept, path)
        route = deployment_route(replica.route, capacity=_CAPACITY)
        table = Snapshot(1, 1, (ApplicationRoute("app", "/", "d"),), (route,))
        publisher.publish(table)
        files, trust = _certificates(str(scene.folder)) if tls else (None, None)
        proxy = Proxy(
            connect=connect_unix,
            controller_address=f"unix:{path}",
            hello=hello("proxy"),
            board=LoadBoard(),
            options=ProxyOptions(limits=limits, tls=files),
        )
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
            await proxy.start([listening])
            try:
                yield ProxyScene(proxy, publisher, table, listening.getsockname()[1], trust)
            finally:
                await proxy.stop()
                routing.close()
                publisher.close()


def _certificates(folder: str) -> tuple[TLSFiles, ssl.SSLContext]:
    ca = trustme.CA()
    issued = ca.issue_cert("localhost")
    files = TLSFiles(f"{folder}/cert.pem", f"{folder}/key.pem")
    issued.cert_chain_pems[0].write_to_path(files.certfile)
    issued.private_key_pem.write_to_path(files.keyfile)
    trust = ssl.create_default_context()
    ca.configure_trust(trust)
    return files, trust
