"""An application whose requests can be held, so that faults can be aimed at them."""

from __future__ import annotations

from pathlib import Path

from harness.http import Answer, get_later
from harness.waiting import eventually

WORKER = """
import asyncio
import os
from pathlib import Path
from salver import serve

@serve.deployment(num_replicas=REPLICAS, max_ongoing_requests=100)
class Worker:
    async def __call__(self, request):
        if request.url.path.endswith("/hold"):
            marker = Path(request.query_params["marker"])
            marker.with_suffix(".started").write_text(str(os.getpid()))
            while not marker.with_suffix(".released").exists():
                await asyncio.sleep(0.01)
        return str(os.getpid())

app = Worker.bind()
"""


class Held:
    """A request that runs until ``release``.

    Attributes:
        pid: of the replica that runs it.
        answer: to come.
    """

    def __init__(self, url: str, marker: Path) -> None:
        self._marker = marker
        self.answer = get_later(f"{url.rstrip('/')}/hold?marker={marker}")
        started = marker.with_suffix(".started")
        self.pid = int(eventually("the request runs", lambda: started.exists() and started.read_text()))

    def release(self) -> None:
        self._marker.with_suffix(".released").touch()

    def result(self, within: float = 30.0) -> Answer:
        return self.answer.result(within)
