"""What comes first when a batch has been executed: the next one, unless that would hold the answers up."""

from __future__ import annotations

import asyncio
import time

import pytest

from salver.serve.batching.decorator import batch

from .batching_scene import NEVER_S, run


@pytest.mark.parametrize(("blocks", "expected"), [(False, ["batch", "batch", "answer"]), (True, ["batch", "answer"])])
def test_the_next_batch_goes_first_unless_it_blocks_the_loop(expected: list[str], *, blocks: bool) -> None:
    order: list[str] = []

    @batch(max_batch_size=2, batch_wait_timeout_s=NEVER_S)
    async def model(items: list[int]) -> list[int]:
        order.append("batch")
        if blocks:
            time.sleep(0.05)  # as a model does that is called on the loop
        else:
            await asyncio.sleep(0.05)
        return items

    async def request(item: int) -> None:
        await model(item)
        order.append("answer")

    async def main() -> None:
        await asyncio.gather(*[request(item) for item in range(4)])
        assert order[: len(expected)] == expected
        assert sorted(order) == ["answer"] * 4 + ["batch"] * 2

    run(main())
