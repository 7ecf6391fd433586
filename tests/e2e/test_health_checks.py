"""``check_health``: the first one decides whether a replica serves, three failures in a row that it is replaced."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from harness.load import ConstantLoad
from harness.waiting import eventually
from salver import serve

WITHIN_S = 60.0


@serve.deployment(num_replicas=2, max_ongoing_requests=20, health_check_period_s=0.2, health_check_timeout_s=1)
class Patient:
    """One of the replicas falls ill when the test says so, in a way that the test says."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.checks = 0

    async def __call__(self) -> int:
        await asyncio.sleep(0)
        return os.getpid()

    def check_health(self) -> None:
        self.checks += 1
        (self.folder / f"{os.getpid()}-{self.checks}").touch()
        file = self.folder / f"ill-{os.getpid()}"
        illness = file.read_text() if file.exists() else ""
        if illness == "raises" or (illness == "flaps" and self.checks % 3):
            raise ConnectionError("the database is away")
        if illness == "hangs":
            threading.Event().wait()


class NeverWell:
    def check_health(self) -> None:
        raise ConnectionError("the database is away")

    def __call__(self) -> str:
        return "served"


def running() -> set[int | None]:
    view = serve.status().applications["default"].deployments["Patient"]
    return {replica.pid for replica in view.replicas if replica.state == "RUNNING"}


@pytest.mark.parametrize("illness", ["raises", "hangs"])
def test_an_ill_replica_is_replaced_without_a_lost_request(instance_url: str, tmp_path: Path, illness: str) -> None:
    patience_s = 1 if illness == "hangs" else 30
    serve.run(Patient.options(health_check_timeout_s=patience_s).bind(str(tmp_path)))
    ill, well = running()
    with ConstantLoad(instance_url, rate=50) as load:
        (tmp_path / f"ill-{ill}").write_text(illness)
        eventually("it is replaced", lambda: ill not in running() and len(running()) == 2, WITHIN_S)
        load.wait_for(20)
    assert load.failures() == []
    assert well in running(), "the other one stayed"


def test_a_replica_that_recovers_is_not_replaced(instance_url: str, tmp_path: Path) -> None:
    serve.run(Patient.options(health_check_timeout_s=30).bind(str(tmp_path)))
    before = running()
    for pid in before:
        (tmp_path / f"ill-{pid}").write_text("flaps")
    for pid in before:
        eventually("it was asked often", (tmp_path / f"{pid}-20").exists, WITHIN_S)
    assert running() == before


def test_a_first_check_that_fails_fails_the_deployment(instance_url: str) -> None:
    with pytest.raises(RuntimeError, match="ConnectionError: the database is away"):
        serve.run(serve.deployment(max_constructor_retry_count=1)(NeverWell).bind())
