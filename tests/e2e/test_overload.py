"""Ten times as many requests as there is capacity for: what can be served is served, the rest hears so at once."""

from __future__ import annotations

import os
import time
from collections.abc import Generator

import pytest
from overloaded import CAPACITY, Paced
from versioned import Versioned

from harness.fair_clock import FairClock
from harness.open_load import OpenLoad, Sent
from harness.own_instance import OwnInstance, own_instance
from salver import serve

NORMAL = 0.5 * CAPACITY
OVERLOAD = 10.0 * CAPACITY
OVERLOADED_FOR_S = float(os.environ.get("SALVER_OVERLOADED_S", "5"))
CALM_AFTER_S = 3.0
"""So long after the load has dropped, latencies are what they were."""

REFUSED_WITHIN_S = 0.05 * 5
NORMAL_WITHIN_S = 0.1 * 5
"""The promise is 50 ms for refusals; a normal request takes 100 ms. Times five for a loaded test machine, in seconds
of a machine that is not crowded."""


@pytest.fixture
def instance() -> Generator[OwnInstance]:
    with own_instance() as started:
        yield started


def percentile(clock: FairClock, answers: list[Sent], share: float) -> float:
    latencies = sorted(clock.between(each.due, each.ended) for each in answers)
    return latencies[int(share * (len(latencies) - 1))]


@pytest.mark.slow
@pytest.mark.xdist_group("quiet")
def test_ten_times_the_capacity_costs_no_capacity(instance: OwnInstance) -> None:
    serve.run(Paced.bind())
    serve.run(Versioned.bind("1"), name="other", route_prefix="/other")
    with (
        FairClock() as clock,
        OpenLoad(instance.url, rate=NORMAL) as load,
        OpenLoad(f"{instance.url}other/", rate=20) as other,
    ):
        load.wait_for(int(2 * NORMAL))
        load.rate = OVERLOAD
        began = time.monotonic()
        time.sleep(OVERLOADED_FOR_S)
        load.rate = NORMAL
        ended = time.monotonic()
        time.sleep(CALM_AFTER_S)
        calm_at = time.monotonic()
        load.wait_for(int(2 * NORMAL))

    during = [each for each in load.results if began <= each.due < ended]
    assert len(during) >= 0.8 * OVERLOAD * clock.between(began, ended), "the load was there"
    goodput = sum(each.status == 200 for each in load.results if began <= each.ended < ended) / clock.between(
        began, ended
    )
    assert goodput >= 0.8 * CAPACITY, goodput

    refused = [each for each in during if each.status != 200]
    assert {each.status for each in refused} == {503}
    assert all(int(each.headers["retry-after"]) >= 1 for each in refused)
    assert percentile(clock, refused, 0.5) <= REFUSED_WITHIN_S
    assert percentile(clock, refused, 0.99) <= 4 * REFUSED_WITHIN_S

    assert other.failures() == []
    assert percentile(clock, other.results, 0.99) <= NORMAL_WITHIN_S, "another application hardly notices"

    before = [each for each in load.results if each.due < began]
    after = [each for each in load.results if each.due >= calm_at]
    assert {each.status for each in (*before, *after)} == {200}
    assert percentile(clock, after, 0.99) <= NORMAL_WITHIN_S
