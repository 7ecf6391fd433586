"""How fast large arrays go through a handle, through shared memory and through the socket: where does it pay?

    python benchmarks/large_payloads.py

A deployment with one replica, one call at a time. The receiver reads one number of every page, so that mapping a page
costs what it costs. Every number is the median of the runs, in MB/s.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from salver import serve
from salver.data import shared_memory

SIZES = [64 * 1024, 128 * 1024, 256 * 1024, 512 * 1024, 2**20, 4 * 2**20, 10_000_000, 16 * 2**20, 64 * 2**20]
SECONDS = 1.0


@serve.deployment
class Peer:
    def __init__(self) -> None:
        self.kept: dict[int, np.ndarray[Any, Any]] = {}

    async def share_from(self, size: int) -> None:
        shared_memory.SHARED_FROM_BYTES = size

    async def take(self, array: np.ndarray[Any, Any]) -> int:
        return int(array[::4096].sum())

    async def give(self, size: int) -> np.ndarray[Any, Any]:
        if size not in self.kept:
            self.kept = {size: np.ones(size, dtype=np.uint8)}
        return self.kept[size]


def rates(handle: Any, size: int, share_from: int) -> tuple[float, float]:
    """MB/s of arguments and of results."""
    shared_memory.SHARED_FROM_BYTES = share_from
    handle.share_from.remote(share_from).result()
    array = np.ones(size, dtype=np.uint8)
    argument = median_s(lambda: handle.take.remote(array).result())
    result = median_s(lambda: int(handle.give.remote(size).result()[::4096].sum()))
    return size / argument / 1e6, size / result / 1e6


def median_s(run: Any) -> float:
    for _ in range(3):
        run()
    taken: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(taken) < 5:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    serve.start(http_options={"port": 0})
    try:
        handle = serve.run(Peer.bind(), route_prefix=None)
        print(f"{'bytes':>10} {'argument: shared':>17} {'socket':>8} {'result: shared':>15} {'socket':>8}")
        for size in SIZES:
            shared, socket = rates(handle, size, 1), rates(handle, size, 2**62)
            print(f"{size:>10} {shared[0]:>17.0f} {socket[0]:>8.0f} {shared[1]:>15.0f} {socket[1]:>8.0f}", flush=True)
    finally:
        serve.shutdown()


if __name__ == "__main__":
    main()
