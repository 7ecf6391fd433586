"""A seeded schedule of faults, and who carries it out: kills and stops of an instance's processes.

The schedule is a pure function of seed and length: what, to which role, when, and which of the victims that there
are then. Which process that is depends on the run; what was done is recorded.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple, Self

from harness.processes import by_role, title

_KILL, _STOP = "kill", "stop"
_KINDS = (
    # what, to whom, how often of 14, the longest stop
    (_KILL, "replica", 4, 0.0),
    (_KILL, "proxy", 2, 0.0),
    (_KILL, "controller", 3, 0.0),
    (_STOP, "replica", 2, 4.0),
    (_STOP, "proxy", 2, 1.5),
    (_STOP, "controller", 1, 3.0),
)
_PAUSE_S = (0.5, 3.0)


class Planned(NamedTuple):
    """A fault to come.

    Attributes:
        at: seconds from the beginning.
        choice: 0 to 1, which of those that there are.
        lasts: of a stop, in seconds.
    """

    at: float
    what: str
    role: str
    choice: float
    lasts: float


class Fault(NamedTuple):
    """What was done, and to whom.

    Attributes:
        deployment: of a replica; empty for other roles.
        at, until: monotonic; a kill has no duration.
    """

    what: str
    role: str
    deployment: str
    pid: int
    at: float
    until: float

    @property
    def kills(self) -> bool:
        return self.what == _KILL


def schedule(seed: int, seconds: float) -> list[Planned]:
    """The faults of so many seconds."""
    dice = random.Random(seed)
    planned: list[Planned] = []
    at = dice.uniform(*_PAUSE_S)
    while at < seconds:
        (kind,) = dice.choices(_KINDS, [often for _, _, often, _ in _KINDS])
        what, role, _, longest = kind
        lasts = dice.uniform(0.2, longest) if longest else 0.0
        planned.append(Planned(at, what, role, dice.random(), lasts))
        at += dice.uniform(*_PAUSE_S)
    return planned


class Nemesis:
    """Inflicts faults on one instance. As a context manager it lets everybody run again in the end.

    Attributes:
        faults: what was done so far.
    """

    def __init__(self, supervisor_pid: int) -> None:
        self._supervisor_pid = supervisor_pid
        self._stopped: dict[int, threading.Timer] = {}
        self.faults: list[Fault] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid, timer in self._stopped.items():
            timer.cancel()
            timer.join()
            _signal(pid, signal.SIGCONT)

    def inflict(self, plan: Iterable[Planned]) -> None:
        """All of it, each at its time; returns after the last."""
        began = time.monotonic()
        for planned in plan:
            time.sleep(max(0.0, began + planned.at - time.monotonic()))
            victims = sorted(by_role(self._supervisor_pid)[planned.role])
            if victims:
                self._inflict(planned, victims[int(planned.choice * len(victims))])

    def _inflict(self, planned: Planned, pid: int) -> None:
        deployment = deployment_of(pid)
        at = time.monotonic()
        if planned.what == _KILL:
            _signal(pid, signal.SIGKILL)
        elif pid not in self._stopped or not self._stopped[pid].is_alive():
            _signal(pid, signal.SIGSTOP)
            self._stopped[pid] = threading.Timer(planned.lasts, _signal, (pid, signal.SIGCONT))
            self._stopped[pid].start()
        self.faults.append(Fault(planned.what, planned.role, deployment, pid, at, at + planned.lasts))


def deployment_of(pid: int) -> str:
    """Of a replica, as its process's title says; empty for all others."""
    replica_id = title(pid).removeprefix("salver: replica ")
    return replica_id.split("#")[1] if "#" in replica_id else ""


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # somebody else was faster
