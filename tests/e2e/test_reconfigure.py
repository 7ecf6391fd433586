"""New settings for replicas that run, without a restart and without a lost request: ``user_config``, ranks, slots."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from harness.load import ConstantLoad
from harness.waiting import eventually
from salver import serve
from salver.serve.context import ReplicaRank

WITHIN_S = 30.0


@serve.deployment(num_replicas=2, max_ongoing_requests=20)
class Tuned:
    """Answers with what it was configured to, and who it is."""

    def __init__(self) -> None:
        self.constructed_by = os.getpid()
        self.config: Any = None

    async def reconfigure(self, config: dict[str, Any]) -> None:
        await asyncio.sleep(config.get("takes_s", 0))
        if "broken" in config:
            raise ValueError("no such threshold")
        self.config = config["threshold"]

    def __call__(self) -> dict[str, Any]:
        return {"threshold": self.config, "pid": os.getpid()}


@serve.deployment(num_replicas=3)
class Sharded:
    def __init__(self) -> None:
        self.ranks: list[int] = []

    def reconfigure(self, config: Any, rank: ReplicaRank) -> None:
        self.ranks.append(rank.rank)

    def __call__(self) -> dict[str, Any]:
        context = serve.get_replica_context()
        assert context.rank is not None
        assert context.rank.rank == context.rank.local_rank == self.ranks[-1]
        return {"rank": context.rank.rank, "pid": os.getpid()}


@serve.deployment(max_ongoing_requests=1)
class Meeting:
    """Its requests wait until as many have come as they say."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.here = 0

    async def __call__(self, request: Any) -> int:
        self.here += 1
        (self.folder / f"here-{self.here}").touch()
        while self.here < int(request.query_params["together"]):
            await asyncio.sleep(0.01)
        return os.getpid()


def pids(deployment: str, application: str = "default") -> set[int | None]:
    view = serve.status().applications[application].deployments[deployment]
    return {replica.pid for replica in view.replicas if replica.state == "RUNNING"}


def answers(url: str, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """Answers until there are enough."""
    found: list[dict[str, Any]] = []

    def more() -> bool:
        found.append(requests.get(url, timeout=WITHIN_S).json())
        return enough(found)

    eventually("enough answers", more, WITHIN_S)
    return found


def test_user_config_changes_under_load_without_a_restart(instance_url: str) -> None:
    serve.run(Tuned.options(user_config={"threshold": 1}).bind())
    before = pids("Tuned")
    assert len(before) == 2
    with ConstantLoad(instance_url, rate=100) as load:
        load.wait_for(50)
        for threshold in (2, 3, 4):
            serve.run(Tuned.options(user_config={"threshold": threshold, "takes_s": 0.2}).bind())
            assert requests.get(instance_url, timeout=WITHIN_S).json()["threshold"] == threshold
            load.wait_for(20)
    assert load.failures() == []
    assert pids("Tuned") == before
    found = answers(instance_url, lambda found: {each["pid"] for each in found} == before)
    assert {each["threshold"] for each in found} == {4}, "both of them"


def test_the_same_user_config_again_is_not_told_again(instance_url: str) -> None:
    serve.run(Sharded.options(user_config="same").bind())
    before = pids("Sharded")
    serve.run(Sharded.options(user_config="same").bind())
    assert pids("Sharded") == before


def test_a_user_config_that_fails_is_told_and_what_ran_serves_on(instance_url: str) -> None:
    serve.run(Tuned.options(user_config={"threshold": 1}).bind())
    with ConstantLoad(instance_url, rate=50) as load:
        with pytest.raises(RuntimeError, match="ValueError: no such threshold"):
            serve.run(Tuned.options(user_config={"threshold": 2, "broken": True}).bind())
        load.wait_for(20)
        serve.run(Tuned.options(user_config={"threshold": 3}).bind())
        load.wait_for(20)
    assert load.failures() == []
    assert requests.get(instance_url, timeout=WITHIN_S).json()["threshold"] == 3


def test_ranks_have_no_gaps_and_are_told_when_they_change(instance_url: str) -> None:
    serve.run(Sharded.bind())
    before = pids("Sharded")
    found = answers(instance_url, lambda found: len({each["pid"] for each in found}) == 3)
    assert sorted({(each["rank"]) for each in found}) == [0, 1, 2]
    assert len({(each["rank"], each["pid"]) for each in found}) == 3, "one each"

    serve.run(Sharded.options(num_replicas=2).bind())
    eventually("one has left", lambda: len(pids("Sharded")) == 2, WITHIN_S)
    remaining = pids("Sharded")
    assert remaining < before
    found = answers(instance_url, lambda found: {each["rank"] for each in found[-8:]} == {0, 1})
    assert {each["pid"] for each in found[-8:]} == remaining


def test_more_slots_start_what_waits_at_once(instance_url: str, tmp_path: Path) -> None:
    serve.run(Meeting.bind(str(tmp_path)))
    (pid,) = pids("Meeting")
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(requests.get, f"{instance_url}?together=3", timeout=WITHIN_S) for _ in range(3)]
        eventually("the first one runs", (tmp_path / "here-1").exists, WITHIN_S)
        serve.run(Meeting.options(max_ongoing_requests=3).bind(str(tmp_path)))
        assert [each.result(WITHIN_S).json() for each in waiting] == [pid] * 3
    assert pids("Meeting") == {pid}
