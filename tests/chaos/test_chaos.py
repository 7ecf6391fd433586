"""Kills and stops of everything but the supervisor, by a seeded schedule, under load and in the middle of updates.

SALVER_CHAOS_S says for how long (default 30 s), SALVER_CHAOS_SEED chooses another schedule, and 0 any.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest
from ledger import kind_of, ledger

from harness.fair_clock import FairClock
from harness.nemesis import Fault, Nemesis, deployment_of, schedule
from harness.open_load import OpenLoad, Sent
from harness.own_instance import OwnInstance, own_instance
from harness.processes import by_role
from harness.waiting import eventually
from salver.controller.client import ControlUnreachable

SECONDS = float(os.environ.get("SALVER_CHAOS_S", "30"))
SEED = int(os.environ.get("SALVER_CHAOS_SEED", "20261122")) or random.SystemRandom().randrange(1 << 32)
RATE = 60.0
UPDATE_EVERY_S = 12.0
DEPLOYMENTS = ("Desk", "Reader", "Writer")

SLACK_S = 5.0
"""How long a request may suffer from a kill: it may have waited for a stopped process when that came."""
BACK_WITHIN_S = {"controller": 2.0 * 5, "proxy": 1.0 * 5, "replica": 1.0 * 5}
CONTROLLER_AWAY_S = 4.0
"""While it is stopped or dead nobody replaces a replica."""
SILENT_AT_MOST_S = 5.0


@pytest.mark.slow
@pytest.mark.xdist_group("quiet")  # not beside the other tests that need or make a busy machine
@pytest.mark.timeout(SECONDS + 240)
def test_every_request_has_the_outcome_that_the_faults_allow(tmp_path: Path) -> None:
    print(f"SALVER_CHAOS_SEED={SEED} SALVER_CHAOS_S={SECONDS:g}")
    book = tmp_path / "book"
    with own_instance(proxies=2) as instance:
        instance.deploy(ledger("0", book))
        assert instance.wait_settled().status == "RUNNING"
        with OpenLoad(instance.url, rate=RATE, path=path) as warm:
            warm.wait_for(100)
        assert warm.failures() == []
        book.unlink()
        before = instance.descriptors()

        with (
            OpenLoad(instance.url, rate=RATE, path=path, seed=SEED) as load,
            Watch(instance) as watch,
            Updates(instance, lambda version: ledger(version, book)) as updates,
        ):
            with Nemesis(instance.supervisor_pid) as nemesis:
                nemesis.inflict(schedule(SEED, SECONDS))
            updates.end()
            quiet_at = time.monotonic()
            load.wait_for(int(2 * RATE))

        for fault in nemesis.faults:
            print(f"{fault.at - nemesis.faults[0].at:6.2f} {fault}")
        print(Counter((kind_of(each.number), each.status, each.error) for each in load.results))
        assert nemesis.faults
        check_outcomes(load, nemesis.faults, quiet_at, watch)
        check_versions(load, updates.version)
        check_written_once(load, book)
        check_recovery(nemesis.faults, watch)
        check_nothing_is_left(instance, before)


def path(number: int) -> str:
    return f"{kind_of(number)}?id={number}"


class Updates:
    """Deploys another version every now and then.

    Attributes:
        version: the last one.
    """

    def __init__(self, instance: OwnInstance, build: Callable[[str], object]) -> None:
        self._instance = instance
        self._build = build
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="updates")
        self.version = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def end(self) -> None:
        """No more of them; wait for the last to settle."""
        self._stopping.set()
        self._thread.join()
        eventually("all of it runs", self._settled, 60)

    def _settled(self) -> bool:
        view = self._instance.application()
        return view is not None and view.status == "RUNNING"

    def _run(self) -> None:
        while not self._stopping.wait(UPDATE_EVERY_S):
            self.version += 1
            while not self._accepted(str(self.version)):
                pass

    def _accepted(self, version: str) -> bool:
        try:
            self._instance.deploy(self._build(version))
        except ControlUnreachable:
            return False
        return True


# --- (a), (b): one outcome each, of those that the faults allow -------------------------------------------


def check_outcomes(load: OpenLoad, faults: list[Fault], quiet_at: float, watch: Watch) -> None:
    kills = [fault for fault in faults if fault.kills]
    unexplained = [each for each in load.failures() if not any(explains(kill, each) for kill in kills)]
    assert unexplained == []
    assert [each for each in load.failures() if each.due > quiet_at] == []
    ends = sorted(each.ended for each in load.results if each.status == 200)
    assert max(watch.clock.between(earlier, later) for earlier, later in pairwise(ends)) < SILENT_AT_MOST_S


def explains(kill: Fault, failed: Sent) -> bool:
    """Whether a client may see this because of that."""
    if not failed.sent - SLACK_S / 10 <= kill.at <= failed.ended:
        return False
    kind = kind_of(failed.number)
    if failed.status is None:
        cut = kind == "stream" and failed.first_byte is not None
        return kill.role == "proxy" or (cut and kill.deployment == "Desk")
    lost_writer = kind == "write" and kill.deployment == "Writer"  # the desk lets that pass
    return failed.status == 502 and (lost_writer or kill.deployment == "Desk")


# --- (c), (d): at most once, and of one version -----------------------------------------------------------


def check_written_once(load: OpenLoad, book: Path) -> None:
    written = Counter(int(line) for line in book.read_text().splitlines())
    assert set(written.values()) == {1}, [number for number, times in written.items() if times > 1]
    writes = {each.number: each for each in load.results if kind_of(each.number) == "write"}
    assert set(written) <= set(writes)
    assert {number for number, each in writes.items() if each.status == 200} <= set(written)


def check_versions(load: OpenLoad, last: int) -> None:
    said: Counter[str] = Counter()
    for each in load.results:
        if each.status == 200:
            matched = re.fullmatch(r"(\d+): (\d+) (\d+) (\d+) :(\d+)", each.body)
            assert matched, each
            assert matched[1] == matched[5], f"half old, half new: {each}"
            assert matched[2] == matched[4], f"half old, half new: {each}"
            if kind_of(each.number) == "write":
                assert int(matched[3]) == each.number, f"somebody else's answer: {each}"
            said[matched[1]] += 1
    assert set(said) <= set(map(str, range(last + 1)))
    assert said[str(last)]


# --- (e): recovery ----------------------------------------------------------------------------------------


class Watch:
    """Looks every now and then which processes there are.

    Attributes:
        seen: when, and the pids by role or deployment.
        clock: bounds are in its seconds.
    """

    def __init__(self, instance: OwnInstance) -> None:
        self._supervisor_pid = instance.supervisor_pid
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self.seen: list[tuple[float, dict[str, set[int]]]] = []
        self.clock = FairClock()

    def __enter__(self) -> Self:
        self.clock.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self.clock.__exit__()

    def _run(self) -> None:
        while not self._stopping.wait(0.1):
            at = time.monotonic()
            roles = by_role(self._supervisor_pid)
            found = {role: set(roles[role]) for role in ("controller", "proxy")}
            for deployment in DEPLOYMENTS:
                found[deployment] = {pid for pid in roles["replica"] if deployment_of(pid) == deployment}
            self.seen.append((at, found))

    def complete_after(self, fault: Fault) -> float:
        """Seconds until there were as many as there should be, without the dead one."""
        whose = fault.deployment or fault.role
        wanted = 1 if whose == "controller" else 2
        for at, found in self.seen:
            if at >= fault.at and len(found[whose] - {fault.pid}) >= wanted:
                return self.clock.between(fault.at, at)
        return float("inf")


def check_recovery(faults: list[Fault], watch: Watch) -> None:
    kills = [fault for fault in faults if fault.kills]
    for kill in kills:
        same = sum(other.deployment == kill.deployment and other.at <= kill.at for other in kills)
        backoff = 0.1 * 2 ** min(same, 6)
        bound = BACK_WITHIN_S[kill.role] + backoff + CONTROLLER_AWAY_S * (kill.role == "replica")
        assert watch.complete_after(kill) <= bound, kill


# --- (f): nothing is left ---------------------------------------------------------------------------------


def check_nothing_is_left(instance: OwnInstance, before: Counter[tuple[str, str]]) -> None:
    instance.wait_nothing_leaves()
    views = [instance.deployment(name) for name in DEPLOYMENTS]
    assert [view.target_num_replicas for view in views] == [2, 2, 2]
    replicas = instance.pids("replica")
    assert len(replicas) == 6
    assert len(instance.pids("proxy")) == 2
    assert len(instance.pids("controller")) == 1

    try:
        eventually("no more descriptors than before", lambda: instance.descriptors() <= before, 20)
    except AssertionError:
        raise AssertionError(f"more descriptors: {instance.descriptors() - before}") from None
    slots = [each.ongoing for view in views for each in view.replicas]
    assert set(slots) == {0}, "every slot is free"
    assert len(list((instance.folder / "r").iterdir())) == len(replicas), "sockets"
    assert len(list(instance.folder.glob("stack-*"))) == len(replicas)
