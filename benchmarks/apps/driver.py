"""A driver script as users write it, for Salver and for Ray Serve: deploys what it is told to, until its input ends.

One line of JSON on standard input for each command, one on standard output for each answer. `serve.run` returns when
the application runs, so that its seconds are those of a deploy.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import serving
from serving import serve


def start(port: int) -> None:
    http = {"host": "127.0.0.1", "port": port}
    if serve.__name__.startswith("salver"):
        serve.start(http_options=http)
        return
    import ray

    ray.init(log_to_driver=False, include_dashboard=os.environ.get("BENCHMARK_DASHBOARD") == "1")
    serve.start(http_options=http, logging_config={"enable_access_log": False})


def carry_out(command: dict[str, Any]) -> None:
    if command["do"] == "delete":
        serve.delete("default")
        return
    serve.run(serving.build(command["arguments"]), name="default", route_prefix="/")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    start(int(sys.argv[1]))
    for line in sys.stdin:
        begin = time.perf_counter()
        carry_out(json.loads(line))
        print(json.dumps({"seconds": time.perf_counter() - begin}), file=answers)
    serve.shutdown()


if __name__ == "__main__":
    main()
