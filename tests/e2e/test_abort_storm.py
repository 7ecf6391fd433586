"""Ten thousand clients that leave at random moments: afterwards everything is as it was before."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import psutil
import requests

from harness.descriptors import descriptors, wait_for_no_more_than
from harness.instance import SalverRun
from harness.waiting import eventually

Start = Callable[..., SalverRun]

ABORTS = 10_000
AT_A_TIME = 50
SEED = 20261122

APP = """
import asyncio
import gc

from salver import serve
from salver.serve.handle import DeploymentHandle

@serve.deployment(max_ongoing_requests=4)
class Child:
    async def __call__(self, delay):
        await asyncio.sleep(delay)
        return "child"

    def tasks(self):
        return len(asyncio.all_tasks(loop)) if (loop := self.loop) else 0

    def __init__(self):
        self.loop = asyncio.get_event_loop()

@serve.deployment(max_ongoing_requests=8)
class Root:
    def __init__(self, child):
        self.child = child

    async def __call__(self, request):
        what = request.url.path.rsplit("/", 1)[-1]
        if what == "sleep":
            await asyncio.sleep(0.005)
        if what == "child":
            return await self.child.remote(0.005)
        if what == "stream":
            return self.stream()
        if what == "upload":
            return len(await request.body())
        if what == "ignore":
            return "not read"
        if what == "state":
            gc.collect()
            return {"tasks": len(asyncio.all_tasks()), "child": await self.child.tasks.remote()}
        return "ok"

    async def stream(self):
        for _ in range(20):
            yield "x" * 4096
            await asyncio.sleep(0.001)

app = Root.bind(Child.bind())
"""

REQUESTS = [
    b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /sleep HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /child HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n",
    b"GET /sleep HTTP/1.1\r\nhost: a\r\n\r\n" * 3,
    b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 150000\r\n\r\n" + b"x" * 150_000,
    b"POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n",
    b"POST /ignore HTTP/1.1\r\nhost: a\r\ncontent-length: 400000\r\n\r\n" + b"x" * 400_000,
    b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n",
]


async def abort_one(port: int, dice: random.Random) -> None:
    """Send all or a part of a request, read all or a part of the answer, wait a little or not, and leave."""
    text = dice.choice(REQUESTS)
    part = len(text) if dice.random() < 0.6 else dice.randrange(len(text))
    pause, wants = dice.choice((0.0, 0.0, 0.001, 0.004, 0.01)), dice.choice((0, 0, 1, 5000))
    reset = dice.random() < 0.5
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return
    try:
        writer.write(text[:part])
        if pause:
            await asyncio.sleep(pause)
        if wants and part == len(text):
            async with asyncio.timeout(0.05):
                await reader.read(wants)
        if reset:
            connected: socket.socket = writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except (OSError, TimeoutError):
        pass
    finally:
        writer.transport.abort() if reset else writer.close()


async def storm(port: int) -> None:
    dice = random.Random(SEED)
    left = iter(range(ABORTS))

    async def client() -> None:
        for _ in left:
            await abort_one(port, dice)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(client())
    await asyncio.sleep(0)


def resident_mb(run: SalverRun, role: str) -> float:
    return sum(psutil.Process(pid).memory_info().rss for pid in run.pids()[role]) / 1e6


def test_ten_thousand_aborts_leave_no_slot_task_or_descriptor(salver_run: Start, tmp_path: Path) -> None:
    run = salver_run("app:app", "--port", "0", files={"app.py": APP})

    def state() -> dict[str, int]:
        return json.loads(requests.get(f"{run.url}state", timeout=30).text)

    state()  # the first call of the child starts what calls need
    tasks = state()
    before = descriptors(run)
    asyncio.run(storm(run.port))
    eventually("no task is left", lambda: all(now <= tasks[where] for where, now in state().items()), 30)
    wait_for_no_more_than(run, before)
    with requests.Session() as session:  # every slot, of the root and of the child
        for _ in range(20):
            assert session.get(f"{run.url}child", timeout=30).text == "child"
    answers = asyncio.run(all_at_once(run.port, 8))
    assert answers == [b"HTTP/1.1 200 OK"] * 8
    assert resident_mb(run, "proxy") < 150
    assert "Traceback" not in run.output(), run.output()[-3000:]


async def all_at_once(port: int, count: int) -> list[bytes]:
    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /sleep HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer.split(b"\r\n", 1)[0]

    return list(await asyncio.gather(*(one() for _ in range(count))))
