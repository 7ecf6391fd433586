"""SIGTERM to an instance under load: whatever it had accepted is answered, and it exits as if it had been idle."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from harness.fair_clock import FairClock
from harness.instance import SalverRun
from harness.open_load import OpenLoad
from harness.processes import is_alive
from harness.waiting import eventually
from harness.worker import Held

ACCEPTED_WITHIN_S = 0.5
"""A request that was sent so long before the signal has been accepted, on a loaded test machine, too."""
ENDS_WITHIN_S = 21.0 + 5.0


@pytest.mark.parametrize("who", ["cli", "supervisor"])
def test_what_was_accepted_is_answered(
    worker_run: Callable[..., SalverRun], hold: Callable[[SalverRun], Held], who: str
) -> None:
    run = worker_run(replicas=2)
    everything = run.processes()
    with FairClock() as clock, OpenLoad(run.url) as load:
        load.wait_for(50)
        held = [hold(run) for _ in range(4)]
        os.kill(run.pids()[who][0], signal.SIGTERM)
        told_at = time.monotonic()
        eventually("new requests are refused", lambda: any(each.sent > told_at for each in load.failures()))
        assert not any(each.answer.done() for each in held)
        for each in held:
            each.release()
        assert [each.result().status for each in held] == [200] * 4
        if who == "cli":
            assert run.wait(ENDS_WITHIN_S) == 0
        eventually("all of it ends", lambda: not any(map(is_alive, everything)), ENDS_WITHIN_S)

    failures = load.failures()
    assert all(clock.between(each.sent, told_at) <= ACCEPTED_WITHIN_S for each in failures), failures
    assert [each for each in failures if each.status is None and each.first_byte is not None] == [], "none was cut"
    assert {each.status for each in failures} <= {None, 503}
