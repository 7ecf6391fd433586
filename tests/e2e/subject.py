"""An application for operators to work on while others serve.

Replicas import this module: it imports no test tools.
"""

from __future__ import annotations

import asyncio
from typing import Any

from salver import serve


@serve.deployment(max_ongoing_requests=10, graceful_shutdown_timeout_s=0.3)
class Subject:
    """Answers with its version; to ``/hold`` not at all."""

    def __init__(self, version: str) -> None:
        self.version = version

    async def __call__(self, request: Any) -> str:
        if request.url.path.endswith("/hold"):
            await asyncio.sleep(1000)
        return self.version


def build(args: dict[str, Any]) -> serve.Application:
    """For config files: ``version`` and ``replicas``."""
    return Subject.options(num_replicas=int(args["replicas"])).bind(args["version"])
