"""The applications on Mosec: `APPLICATION=noop REPLICAS=1 python mosec_app.py --port 8000`.

A Mosec application is a pipeline of stages, each with processes of its own, behind a proxy in Rust. Its stages stand
for the deployments of the other servers; a stage hands its result on and never calls another.
"""

import os
import time
from collections.abc import Iterator
from typing import Any

from mosec import Server, SSEWorker, Worker

BATCH_SIZE, BATCH_WAIT_MS, MODEL_S = 16, 10, 0.005
SLOTS, WORK_S = 5, 0.02


class Noop(Worker):
    resp_mime_type = "text/plain; charset=utf-8"

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: Any) -> bytes:
        return data

    def forward(self, data: Any) -> Any:
        return b"hello"


class Echo(Noop):
    resp_mime_type = "application/json"

    def forward(self, data: Any) -> Any:
        return data


class Batched(Noop):
    def forward(self, data: list[bytes]) -> list[bytes]:
        time.sleep(MODEL_S)
        return [b"hello"] * len(data)


class Slow(Noop):
    """Its processes stand for the slots of the others: a worker does one thing at a time."""

    def forward(self, data: Any) -> Any:
        time.sleep(WORK_S)
        return b"hello"


class Stream(SSEWorker):
    chunks = int(os.environ["APPLICATION"].partition("stream_")[2] or 0)

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: Any) -> Any:
        for _ in range(self.chunks - 1):
            self.send_stream_event("token")
        return b"token"  # comes as the last event


def stages(application: str, replicas: int) -> Iterator[tuple[type[Worker], dict[str, int]]]:
    match application:
        case "noop":
            yield Noop, {"num": replicas}
        case "composed" | "chain":
            yield from [(Noop, {"num": replicas})] * (2 if application == "composed" else 5)
        case "echo":
            yield Echo, {"num": replicas}
        case "batch":
            yield Batched, {"num": replicas, "max_batch_size": BATCH_SIZE, "max_wait_time": BATCH_WAIT_MS}
        case "overload":
            yield Slow, {"num": SLOTS}
        case _:
            yield Stream, {"num": replicas}


if __name__ == "__main__":
    server = Server()
    for worker, options in stages(os.environ["APPLICATION"], int(os.environ["REPLICAS"])):
        server.append_worker(worker, **options)
    server.run()
