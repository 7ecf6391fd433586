"""The controller dies under two hundred handle clients: they come back one by one, and nobody is served any later."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import pytest
from versioned import Named

from harness.herd import ClientRecord, Herd
from harness.own_instance import OwnInstance, own_instance
from harness.waiting import crowding, eventually, let_pass

PROCESSES, CLIENTS = 8, 25
BACK_WITHIN_S = 2.0
"""The promise for a controller; that its clients have found it is part of it."""
SPREAD_S = 0.25
"""Over which they come back."""
PARTS = 5
MOST = 3
"""How many times the usual a spike may be."""
CALLS_S = 2.0
"""Of calling before the crash, and after it."""
SHORT_S = 0.05
"""Calls are not compared below this: a machine that was busy for a moment makes as much of a difference."""


@pytest.fixture
def instance() -> Generator[OwnInstance]:
    with own_instance() as started:
        yield started


def busiest(moments: list[float], window_s: float) -> int:
    """How many of them are within one window, wherever it begins."""
    ordered = sorted(moments)
    return max(sum(first <= each <= first + window_s for each in ordered) for first in ordered)


def latencies(records: list[ClientRecord], since: float, until: float) -> list[float]:
    return sorted(ended - made for record in records for made, ended, _ in record.calls if since <= made < until)


def test_two_hundred_clients_come_back_one_by_one(instance: OwnInstance) -> None:
    instance.deploy(Named.bind())
    assert instance.wait_settled().status == "RUNNING"
    replicas = set(instance.pids("replica"))
    with Herd(instance.folder, processes=PROCESSES, clients=CLIENTS) as herd:
        herd.wait_subscribed(1, 60.0)
        let_pass(CALLS_S)
        (controller,) = instance.pids("controller")
        killed_at = time.monotonic()  # before it happens: who gets a processor first sees it first
        instance.kill(controller)
        herd.wait_subscribed(2, BACK_WITHIN_S)
        let_pass(CALLS_S)

    records = herd.records
    assert len(records) == PROCESSES * CLIENTS
    dials = [each for record in records for each in record.dials if each > killed_at]
    assert len(dials) == len(records), "each dials once, and waits for the next controller to accept"
    assert busiest(dials, SPREAD_S / PARTS) <= MOST * len(records) / PARTS, "no lockstep"
    assert {tuple(record.heard) for record in records} == {(1, 2)}

    problems = Counter(problem for record in records for *_, problem in record.calls)
    assert set(problems) == {""}, "no call is lost"
    before = latencies(records, killed_at - CALLS_S, killed_at)
    during = latencies(records, killed_at, killed_at + CALLS_S)
    assert len(during) > len(before) / MOST, "they go on calling"
    shortest = SHORT_S * crowding()
    assert median(during) <= MOST * max(median(before), shortest)
    assert during[int(0.99 * len(during))] <= MOST * max(before[int(0.99 * len(before))], shortest)
    assert set(instance.pids("replica")) == replicas


@pytest.mark.parametrize("role", ["controller", "replica"])
def test_hundreds_may_wait_for_one_that_is_not_there_yet(instance: OwnInstance, role: str) -> None:
    """Who dials and finds no room must come again later, in a crowd of others."""
    instance.deploy(Named.options(num_replicas=1).bind())
    assert instance.wait_settled().status == "RUNNING"
    path = instance.folder / "routing.sock" if role == "controller" else next((instance.folder / "r").iterdir())
    (pid,) = instance.pids(role)
    os.kill(pid, signal.SIGSTOP)
    with ExitStack() as waiting:
        waiting.callback(os.kill, pid, signal.SIGCONT)
        for _ in range(PROCESSES * CLIENTS):
            waiting.enter_context(dial(path))
    eventually("it is well", lambda: instance.wait_settled().status == "RUNNING")


def dial(path: Path) -> socket.socket:
    """Connect without waiting. Raises BlockingIOError when as many wait as may."""
    made = socket.socket(socket.AF_UNIX)
    made.setblocking(False)
    try:
        made.connect(str(path))
    except OSError:
        made.close()
        raise
    return made
