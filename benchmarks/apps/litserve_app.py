"""The applications on LitServe: `APPLICATION=noop REPLICAS=1 python litserve_app.py 8000`.

With the ZeroMQ queue, which LitServe's documentation recommends above a hundred requests per second. LitServe parses
bodies as JSON and answers JSON, whatever the application wants.
"""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import litserve

BATCH_SIZE, BATCH_WAIT_S, MODEL_S = 16, 0.01, 0.005


class Noop(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def predict(self, x: Any) -> Any:
        return "hello"


class Echo(Noop):
    def predict(self, x: Any) -> Any:
        return x


class Batched(Noop):
    def predict(self, x: list[Any]) -> list[Any]:
        time.sleep(MODEL_S)
        return ["hello"] * len(x)


class Stream(Noop):
    chunks = int(os.environ["APPLICATION"].partition("stream_")[2] or 0)

    def predict(self, x: Any) -> Iterator[str]:
        for _ in range(self.chunks):
            yield "data: token\n\n"

    def encode_response(self, output: Iterator[str]):  # no annotation: FastAPI would take it for a response model
        yield from output


def api(application: str) -> litserve.LitAPI:
    match application:
        case "noop":
            return Noop(api_path="/")
        case "echo":
            return Echo(api_path="/")
        case "batch":
            return Batched(api_path="/", max_batch_size=BATCH_SIZE, batch_timeout=BATCH_WAIT_S)
        case _:
            return Stream(api_path="/", stream=True)


if __name__ == "__main__":
    server = litserve.LitServer(
        api(os.environ["APPLICATION"]),
        accelerator="cpu",
        devices=1,
        workers_per_device=int(os.environ["REPLICAS"]),
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
        loop="uvloop",
        http="httptools",
    )
