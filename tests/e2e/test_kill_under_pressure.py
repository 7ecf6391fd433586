"""SIGKILL to a replica at which short requests wait for a slot: none runs twice, few are lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from harness.instance import SalverRun
from harness.processes import is_alive
from harness.waiting import eventually

KILLS = 4  # as many as a minute takes before restarts slow down
SLOTS = 5
CONNECTIONS = 64

APP = f"""
import os
from salver import serve

@serve.deployment(max_ongoing_requests={SLOTS}, num_replicas=REPLICAS)
class Marks:
    def __init__(self):
        self.marks = os.open("marks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def __call__(self, request):
        os.write(self.marks, request.url.query.encode() + b"\\n")
        return request.url.query

app = Marks.bind()
"""


async def client(port: int, numbers: Iterator[int], ended: dict[str, int], stop: asyncio.Event) -> None:
    """One request after the other, each with a number of its own, on a connection that is kept alive."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while not stop.is_set():
        number = str(next(numbers))
        writer.write(f"GET /?{number} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
        ended[number] = int(head[9:12])
        assert ended[number] != 200 or body.decode() == number
    writer.close()
    await writer.wait_closed()


def is_gone(pid: int) -> bool:
    return not is_alive(pid)


async def kill_under_pressure(run: SalverRun) -> dict[str, int]:
    """The status of every request, by its number."""
    ended: dict[str, int] = {}
    stop = asyncio.Event()
    numbers = itertools.count()

    async def killer() -> None:
        for _ in range(KILLS):
            served = len(ended)
            while len(ended) < served + 2000:  # long enough for the proxy to know the pace of the new one
                await asyncio.sleep(0.001)
            pids = run.pids()["replica"]
            os.kill(pids[0], signal.SIGKILL)
            await asyncio.to_thread(eventually, "it is gone", partial(is_gone, pids[0]))
        stop.set()

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(client(run.port, numbers, ended, stop))
        group.create_task(killer())
    return ended


@pytest.mark.parametrize("replicas", [1, 2])
def test_no_request_runs_twice_and_a_death_costs_no_more_than_ran(
    salver_run: Callable[..., SalverRun], tmp_path: Path, replicas: int
) -> None:
    app = APP.replace("REPLICAS", str(replicas))
    run = salver_run("app:app", "--port", "0", "--no-access-log", files={"app.py": app})
    ended = asyncio.run(kill_under_pressure(run))
    ran = Counter((tmp_path / "marks").read_text().split())
    assert max(ran.values()) == 1, [number for number, times in ran.items() if times > 1]
    assert set(ended.values()) <= {200, 502}, Counter(ended.values())
    assert all(number in ran for number, status in ended.items() if status == 200)
    assert sum(status == 502 for status in ended.values()) <= KILLS * SLOTS
    assert len(ended) > KILLS * 2000
