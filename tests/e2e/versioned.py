"""An application that says in each half of its answer which version of it is speaking, and that can be broken.

Replicas import this module: it imports no test tools.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from salver import serve


@serve.deployment(num_replicas=2, max_ongoing_requests=50)
class Versioned:
    """Answers ``VERSION PID VERSION PID CONFIG``, in two pieces, ``takes_s`` seconds apart.

    Args:
        version: what it says; one that begins with "broken" raises.
        constructs_s: how long its constructor takes.
    """

    def __init__(self, version: str, constructs_s: float = 0.0) -> None:
        time.sleep(constructs_s)
        if version.startswith("broken"):
            raise ValueError(f"{version} cannot work")
        self.version = version
        self.config: Any = None

    def reconfigure(self, config: Any) -> None:
        self.config = config

    async def __call__(self, request: Any) -> StreamingResponse:
        return StreamingResponse(self.halves(float(request.query_params.get("takes_s", "0.02"))))

    async def halves(self, takes_s: float) -> AsyncIterator[str]:
        yield f"{self.version} {os.getpid()} "
        await asyncio.sleep(takes_s)
        yield f"{self.version} {os.getpid()} {self.config}"


@serve.deployment(num_replicas=2, max_ongoing_requests=50)
class Second:
    """Another one, to be deployed, scaled and deleted while the first one serves."""

    def __init__(self, version: str) -> None:
        self.version = version

    def __call__(self, request: Any) -> str:
        return self.version


@serve.deployment(num_replicas=2, max_ongoing_requests=100)
class Named:
    """For handles: says its name at once."""

    def named(self) -> str:
        return "Named"
