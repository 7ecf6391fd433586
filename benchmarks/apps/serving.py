"""The applications for the two that share a programming model: the same file runs on Salver and on Ray Serve.

salver run serving:build application=noop replicas=2 --app-dir benchmarks/apps

Each application is the least that shows one thing, so that what a request costs is the server's own. Replicas reserve
no CPU (Ray would otherwise refuse a chain of five on two cores); no other option differs from the defaults unless the
text beside it says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

try:
    from salver import serve
except ImportError:  # the environment of Ray Serve
    from ray import serve

CHUNK = b"data: token\n\n"
ARRAY_BYTES = 10_000_000
BATCH_SIZE, BATCH_WAIT_S, MODEL_S = 16, 0.01, 0.005
SLOTS, QUEUE, WORK_S = 5, 20, 0.02
WITHOUT_CPU = {"num_cpus": 0}


def deployment(cls: type, **options: Any) -> Any:
    return serve.deployment(cls).options(ray_actor_options=WITHOUT_CPU, **options)


class Noop:
    async def __call__(self) -> str:
        return "hello"


class Sync:
    def __call__(self) -> str:
        return "hello"


class Link:
    """One deployment of a chain: asks the next one, or answers if it is the last."""

    def __init__(self, behind: Any = None) -> None:
        self.behind = behind

    async def __call__(self) -> str:
        return await self.answer()

    async def answer(self) -> str:
        return "hello" if self.behind is None else await self.behind.answer.remote()


class Echo:
    async def __call__(self, request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")


class Stream:
    def __init__(self, chunks: int) -> None:
        self.chunks = chunks

    async def __call__(self) -> StreamingResponse:
        return StreamingResponse(self.events(), media_type="text/event-stream")

    async def events(self) -> AsyncIterator[bytes]:
        for _ in range(self.chunks):
            yield CHUNK


class Batched:
    """A model that takes 5 ms for up to 16 inputs, in a thread as a real one would."""

    async def __call__(self) -> str:
        return await self.model("hello")

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def model(self, inputs: list[str]) -> list[str]:
        await asyncio.to_thread(time.sleep, MODEL_S)
        return inputs


class Slow:
    """Five at a time, 20 ms each: 250 requests per second, whatever the machine."""

    async def __call__(self) -> str:
        await asyncio.sleep(WORK_S)
        return "hello"


class ArraySource:
    """Sends an array to the child again and again, and answers how many seconds each took."""

    def __init__(self, sink: Any) -> None:
        import numpy as np

        self.sink = sink
        self.array = np.ones(ARRAY_BYTES, dtype=np.uint8)

    async def __call__(self, request: Request) -> list[float]:
        taken: list[float] = []
        for _ in range(int(request.query_params.get("times", 1))):
            start = time.perf_counter()
            await self.sink.take.remote(self.array)
            taken.append(time.perf_counter() - start)
        return taken


class ArraySink:
    async def take(self, array: Any) -> int:
        """Reads one number of every page, so that mapping a page costs what it costs."""
        return int(array[::4096].sum())


def fastapi(replicas: int) -> Any:
    import fastapi_ingress

    return fastapi_ingress.build(replicas)


def chain(length: int, replicas: int) -> Any:
    application = deployment(Link, name=f"Link{length}").bind()
    for number in range(length - 1, 0, -1):
        application = deployment(Link, name=f"Link{number}", num_replicas=replicas).bind(application)
    return application


def cold(replicas: int) -> Any:
    """Nothing runs until somebody asks."""
    scaling = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": replicas, "upscale_delay_s": 0}
    return deployment(Noop, autoscaling_config=scaling).bind()


APPLICATIONS: dict[str, Callable[[int], Any]] = {
    "noop": lambda replicas: deployment(Noop, num_replicas=replicas).bind(),
    "sync": lambda replicas: deployment(Sync, num_replicas=replicas).bind(),
    "composed": lambda replicas: chain(2, replicas),
    "chain": lambda replicas: chain(5, replicas),
    "fastapi": fastapi,
    "echo": lambda replicas: deployment(Echo, num_replicas=replicas).bind(),
    "stream_50": lambda replicas: deployment(Stream, num_replicas=replicas).bind(50),
    "stream_1000": lambda replicas: deployment(Stream, num_replicas=replicas).bind(1000),
    # Enough for the next batches to be there when a model is done: Ray's default of 5 would never fill one.
    "batch": lambda replicas: deployment(Batched, num_replicas=replicas, max_ongoing_requests=64).bind(),
    "overload": lambda replicas: deployment(
        Slow, num_replicas=replicas, max_ongoing_requests=SLOTS, max_queued_requests=QUEUE
    ).bind(),
    "array": lambda replicas: deployment(ArraySource, num_replicas=replicas).bind(deployment(ArraySink).bind()),
    "cold": cold,
}


def build(arguments: dict[str, str]) -> Any:
    """The application of that name with so many replicas."""
    return APPLICATIONS[arguments["application"]](int(arguments["replicas"]))
