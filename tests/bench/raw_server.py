"""A server that answers with whatever bytes a test wants, from a thread of its own."""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

Answerer = Callable[[int, asyncio.StreamWriter], Awaitable[None]]
"""Is told the number of the request, from 0, and where its answer goes."""


def answer(*, status: int = 200, body: bytes = b"ok", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} Status\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


async def well(_: int, writer: asyncio.StreamWriter) -> None:
    writer.write(answer())


class RawServer:
    """Serves while its ``with`` block runs.

    Attributes:
        url: where.
        requests: heads and bodies as they came.
    """

    url: str

    def __init__(self, answerer: Answerer = well, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self._answerer = answerer
        self._tls = tls
        self._open: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="raw server")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].rstrip("/"))

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, backlog=1000)
        scheme = "https" if self._tls else "http"
        self.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        self._main = asyncio.ensure_future(asyncio.Event().wait())
        self._ready.set()
        try:
            await self._main
        except asyncio.CancelledError:
            pass
        finally:
            server.close()
            for writer in self._open:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while not writer.is_closing():
                request = await reader.readuntil(b"\r\n\r\n")
                if length := re.search(rb"content-length: (\d+)", request):
                    request += await reader.readexactly(int(length[1]))
                self.requests.append(request)
                await self._answerer(len(self.requests) - 1, writer)
                await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
