"""The applications on BentoML: `APPLICATION=noop REPLICAS=1 bentoml serve bentoml_app:service`.

Without access log, metrics and traces; with uvloop and httptools installed, which its workers then use. BentoML's
deployments are services, each with processes of its own, which call each other over HTTP.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from typing import Any

import bentoml
import numpy as np

APPLICATION, REPLICAS = os.environ["APPLICATION"], int(os.environ["REPLICAS"])
ARRAY_BYTES = 10_000_000
BATCH_SIZE, BATCH_WAIT_MS, MODEL_S = 16, 10, 0.005
SLOTS, QUEUE, WORK_S = 5, 20, 0.02
QUIET: dict[str, Any] = {
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
}


class Noop:
    @bentoml.api(route="/")
    async def answer(self) -> str:
        return "hello"


class Sync:
    @bentoml.api(route="/")
    def answer(self) -> str:
        return "hello"


class Echo:
    @bentoml.api(route="/")
    async def answer(self, text: str, /) -> str:
        return text


class Stream:
    @bentoml.api(route="/")
    async def answer(self) -> AsyncGenerator[str, None]:
        for _ in range(int(APPLICATION.removeprefix("stream_"))):
            yield "data: token\n\n"


class Batched:
    @bentoml.api(route="/", batchable=True, max_batch_size=BATCH_SIZE, max_latency_ms=1000)
    def answer(self, inputs: list[str]) -> list[str]:
        time.sleep(MODEL_S)
        return inputs


class Slow:
    """Its queue is bounded by `max_concurrency`."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(SLOTS)

    @bentoml.api(route="/")
    async def answer(self) -> str:
        async with self.slots:
            await asyncio.sleep(WORK_S)
        return "hello"


class ArraySink:
    @bentoml.api
    def take(self, array: np.ndarray) -> int:
        return int(array.ravel()[::4096].sum())


def served(cls: type, **options: Any) -> Any:
    return bentoml.service(workers=REPLICAS, **QUIET, **options)(cls)


def link(behind: Any, number: int) -> Any:
    """A service that asks the one behind it."""

    class Link:
        child = bentoml.depends(behind)

        @bentoml.api(route="/")
        async def answer(self) -> str:
            return await self.child.to_async.answer()

    Link.__name__ = f"Link{number}"
    return served(Link)


def chain(length: int) -> Any:
    application = served(Noop)
    for number in range(length - 1, 0, -1):
        application = link(application, number)
    return application


def array() -> Any:
    class ArraySource:
        sink = bentoml.depends(served(ArraySink))

        def __init__(self) -> None:
            self.array = np.ones(ARRAY_BYTES, dtype=np.uint8)

        @bentoml.api(route="/")
        async def answer(self, times: int = 1) -> list[float]:
            taken: list[float] = []
            for _ in range(times):
                start = time.perf_counter()
                await self.sink.to_async.take(array=self.array)
                taken.append(time.perf_counter() - start)
            return taken

    return served(ArraySource)


def application() -> Any:
    match APPLICATION:
        case "composed" | "chain":
            return chain(2 if APPLICATION == "composed" else 5)
        case "array":
            return array()
        case "overload":
            return served(Slow, traffic={"max_concurrency": SLOTS + QUEUE})
        case "stream_50" | "stream_1000":
            return served(Stream)
        case _:
            return served({"noop": Noop, "sync": Sync, "echo": Echo, "batch": Batched}[APPLICATION])


service = application()
