"""An application whose capacity is a number. Replicas import this module: it imports no test tools."""

from __future__ import annotations

import asyncio
from typing import Any

from salver import serve

REPLICAS = 2
SLOTS = 2
TAKES_S = 0.1
CAPACITY = REPLICAS * SLOTS / TAKES_S
"""Requests per second."""


@serve.deployment(num_replicas=REPLICAS, max_ongoing_requests=SLOTS, max_queued_requests=8)
class Paced:
    async def __call__(self, request: Any) -> str:
        await asyncio.sleep(TAKES_S)
        return "done"
