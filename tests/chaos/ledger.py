"""The application that chaos goes through: what may be done twice, and what must not be.

Replicas import this module: it imports no test tools.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.responses import StreamingResponse

from salver import serve
from salver.serve.deployment import Application
from salver.serve.handle import DeploymentHandle

_TAKES_S = 0.02


@serve.deployment(num_replicas=2, max_ongoing_requests=50, idempotent=True)
class Reader:
    """May be asked twice."""

    def __init__(self, version: str) -> None:
        self.version = version

    async def __call__(self, content: Any) -> str:
        before = self.version
        await asyncio.sleep(_TAKES_S)
        return f"{before} {len(content)} {self.version}"


@serve.deployment(num_replicas=2, max_ongoing_requests=50)
class Writer:
    """Writes down every request that it begins with."""

    def __init__(self, version: str, path: Path) -> None:
        self.version = version
        self.path = path

    async def __call__(self, number: str) -> str:
        before = self.version
        with self.path.open("a") as file:
            file.write(f"{number}\n")
        await asyncio.sleep(_TAKES_S)
        return f"{before} {number} {self.version}"


@serve.deployment(num_replicas=2, max_ongoing_requests=200)
class Desk:
    """Answers ``VERSION: VERSION RESULT VERSION :VERSION``: the outer pair is its own, the inner the other's."""

    def __init__(self, version: str, reader: DeploymentHandle[Any], writer: DeploymentHandle[Any]) -> None:
        self.version = version
        self.reader = reader
        self.writer = writer

    async def __call__(self, request: Any) -> Any:
        what, number = request.url.path.rpartition("/")[2], request.query_params["id"]
        if what == "stream":
            return StreamingResponse(self.stream(number))
        before = self.version
        if what == "write":
            result = await self.writer.remote(number)
        elif what == "large":
            result = await self.reader.remote(_large())
        else:
            result = await self.reader.remote(number)
        return f"{before}: {result} :{self.version}"

    async def stream(self, number: str) -> AsyncIterator[str]:
        yield f"{self.version}: "
        yield str(await self.reader.remote(number))
        await asyncio.sleep(_TAKES_S)
        yield f" :{self.version}"


def _large() -> Any:
    """An array that goes through shared memory."""
    import numpy

    return numpy.zeros(1 << 20, numpy.uint8)


def ledger(version: str, path: Path) -> Application:
    """The whole application, in one version."""
    return Desk.bind(version, Reader.bind(version), Writer.bind(version, path))


def kind_of(number: int) -> str:
    """What the n-th request asks for."""
    return "large" if number % 50 == 7 else ("read", "write", "stream")[number % 3]
