"""Autoscaling of one deployment: how many, how big a step, since when, and what people are told."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.control.autoscaling import Autoscaler, Decision, replicas_after_step, replicas_needed
from salver.control.events import Load
from salver.control.load_window import MOST_PIECES, LoadWindow
from salver.records import AutoscalingSpec, PolicySpec

SAMPLE_S = 0.25

AT_ONCE = AutoscalingSpec(
    min_replicas=0, max_replicas=10, look_back_period_s=1.0, upscale_delay_s=0.0, downscale_delay_s=0.0
)


def spec(**changes: object) -> AutoscalingSpec:
    return AutoscalingSpec(**{**{name: getattr(AT_ONCE, name) for name in AT_ONCE.__struct_fields__}, **changes})  # type: ignore[arg-type]


class Run:
    """A deployment whose load the test says: samples come as in production, ticks at deadlines."""

    def __init__(self, settings: AutoscalingSpec, replicas: int = 1, *, low: int | None = None) -> None:
        self.autoscaler = Autoscaler(settings)
        self.low = settings.min_replicas if low is None else low
        self.high = settings.max_replicas
        self.replicas = replicas
        self.now = 1000.0
        self.decisions: list[tuple[float, Decision]] = []

    def hold(self, seconds: float, *, queued: float = 0.0, running: float = 0.0) -> None:
        """The same load for so long."""
        end = self.now + seconds
        while self.now < end:
            self.autoscaler.observe(Load(queued, running), self.now)
            self.decide()
            self.pass_time(min(SAMPLE_S, end - self.now))

    def pass_time(self, seconds: float) -> None:
        """Without samples, as the shell does: it wakes the core at each deadline."""
        end = self.now + seconds
        while (deadline := self.autoscaler.next_deadline()) is not None and deadline <= end:
            assert deadline > self.now - 1e-6, "a deadline that has passed would wake the core for ever"
            self.now = deadline
            self.decide()
        self.now = end

    def decide(self) -> None:
        decision = self.autoscaler.decide(self.replicas, self.low, self.high, self.now)
        if decision is not None:
            assert decision.replicas != self.replicas
            self.replicas = decision.replicas
            self.decisions.append((self.now, decision))

    @property
    def steps(self) -> list[int]:
        return [decision.replicas for _, decision in self.decisions]

    @property
    def reasons(self) -> list[str]:
        return [decision.reason for _, decision in self.decisions]


# --- how many ---------------------------------------------------------------------------------------------


def test_as_many_replicas_as_the_load_needs() -> None:
    run = Run(AT_ONCE)
    run.hold(0.1, queued=5, running=2)
    assert run.steps == [4]  # 7 requests, 2 each


def test_requests_that_fit_exactly_need_no_further_replica() -> None:
    run = Run(spec(target_ongoing_requests=0.1))
    run.hold(0.1, running=0.3)
    assert run.steps == [3]


@pytest.mark.parametrize(("upscaling_factor", "replicas"), [(1.0, 6), (0.5, 4), (2.0, 10), (0.01, 3)])
def test_the_upscaling_factor_multiplies_the_step(upscaling_factor: float, replicas: int) -> None:
    run = Run(spec(upscaling_factor=upscaling_factor), replicas=2)
    run.hold(0.1, running=12)
    assert run.steps[:1] == [replicas]


@pytest.mark.parametrize(("downscaling_factor", "replicas"), [(1.0, 2), (0.5, 6), (0.01, 9), (3.0, 2)])
def test_the_downscaling_factor_multiplies_the_step_and_never_undershoots(
    downscaling_factor: float, replicas: int
) -> None:
    run = Run(spec(downscaling_factor=downscaling_factor), replicas=10)
    run.hold(0.1, running=4)
    assert run.steps[:1] == [replicas]


@pytest.mark.parametrize(("aggregation", "replicas"), [("mean", 3), ("max", 5), ("min", 1)])
def test_the_load_is_summed_up_over_the_look_back_period(aggregation: str, replicas: int) -> None:
    autoscaler = Autoscaler(spec(aggregation=aggregation, look_back_period_s=4.0))
    for second, running in enumerate([2.0, 2.0, 10.0, 10.0, 2.0]):
        autoscaler.observe(Load(0.0, running), float(second))
    autoscaler.decide(9, 0, 10, 4.0)
    assert autoscaler.view(9).desired == replicas


def test_what_is_older_than_the_look_back_period_is_forgotten() -> None:
    window = LoadWindow(10.0)
    window.add(1000, 0.0)
    for second in range(1, 30):
        window.add(4, float(second))
    assert window.aggregate("mean") == pytest.approx(4)
    assert window.aggregate("max") == 4


def test_a_window_that_is_young_is_used_as_it_is() -> None:
    window = LoadWindow(3600.0)
    window.add(8, 5.0)
    assert window.aggregate("mean") == 8
    window.add(0, 7.0)
    assert window.aggregate("mean") == 8  # it was 8 until now


def test_nothing_is_decided_before_the_load_is_known() -> None:
    run = Run(AT_ONCE, replicas=7)
    run.pass_time(1000)
    run.decide()
    assert run.steps == []
    assert run.autoscaler.view(7).status == "STABLE"


# --- to zero and back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("upscaling_factor", "replicas"), [(1.0, 1), (0.2, 1), (2.5, 3), (99.0, 10)])
def test_the_first_request_wakes_a_deployment_at_once(upscaling_factor: float, replicas: int) -> None:
    run = Run(spec(upscale_delay_s=300.0, upscaling_factor=upscaling_factor), replicas=0)
    run.hold(10.0)
    assert run.steps == []
    run.hold(0.1, queued=1)
    assert run.steps == [replicas]
    assert run.reasons == ["no replicas, and requests wait: 1"]


def test_a_burst_on_a_cold_deployment_is_one_step() -> None:
    run = Run(spec(upscale_delay_s=30.0, look_back_period_s=30.0), replicas=0)
    run.hold(5.0)
    run.hold(10.0, queued=500)
    assert run.steps == [1]


def test_a_deployment_that_has_no_capacity_stays_at_nothing() -> None:
    run = Run(AT_ONCE, replicas=0)
    run.low = run.high = 0
    run.hold(1.0, queued=9)
    assert run.steps == []


def test_the_last_replica_goes_after_a_delay_of_its_own() -> None:
    run = Run(spec(downscale_delay_s=10.0, downscale_to_zero_delay_s=50.0), replicas=4)
    run.hold(100.0)
    assert run.steps == [1, 0]
    assert [round(at - 1000.0, 1) for at, _ in run.decisions] == [10.0, 60.0]
    assert run.reasons == ["no requests: for 10 s", "no requests: for 50 s"]


def test_to_zero_without_a_delay_of_its_own_it_is_the_downscale_delay() -> None:
    run = Run(spec(downscale_delay_s=10.0))
    run.hold(30.0)
    assert [(round(at - 1000.0, 1), decision.replicas) for at, decision in run.decisions] == [(10.0, 0)]


def test_a_replica_with_a_request_stays_whatever_the_window_says() -> None:
    run = Run(spec(aggregation="min", look_back_period_s=60.0))
    run.autoscaler.observe(Load(0.0, 0.0), run.now)
    run.hold(20.0, running=1)
    assert run.steps == []
    run.hold(1.0)
    assert run.steps == [0]


# --- delays -------------------------------------------------------------------------------------------------


def test_a_step_is_made_when_its_delay_ends_even_if_no_sample_comes() -> None:
    run = Run(spec(upscale_delay_s=30.0))
    run.autoscaler.observe(Load(0.0, 12.0), run.now)
    run.decide()
    assert run.autoscaler.next_deadline() == 1030.0
    assert run.autoscaler.view(1).status == "UPSCALING"
    run.pass_time(29.9)
    assert run.steps == []
    run.pass_time(0.2)
    assert [(at, decision.replicas) for at, decision in run.decisions] == [(1030.0, 6)]
    assert run.reasons == ["12.0 requests on 1 replica, 12.0 each, target 2: for 30 s"]
    assert run.autoscaler.next_deadline() is None


def test_a_step_that_is_not_wanted_for_a_moment_waits_again() -> None:
    run = Run(spec(upscale_delay_s=3.0, look_back_period_s=0.1))
    run.hold(2.5, running=12)
    run.hold(0.5, running=2)
    run.hold(2.5, running=12)
    assert run.steps == []
    run.hold(1.0, running=12)
    assert run.steps == [6]


@pytest.mark.parametrize(
    ("aggregation", "up", "down"),
    [
        # The mean is 1.5 more every second, then 1.5 less: above 1 is seen at 0.75, above 3 at 2.25, above 5 at 3.5;
        # at most 5 at 0.75, at most 2 at 2.75. Each step is as big as it has become when its delay ends.
        ("mean", [(1.75, 3), (3.25, 5), (4.5, 6)], [(2.75, 3), (4.75, 1)]),
        ("max", [(1.0, 6)], [(6.0, 1)]),  # the last 6 is forgotten 4 s after the end
        ("min", [(5.0, 6)], [(2.0, 1)]),  # as is the last 0, 4 s after the beginning
    ],
)
def test_the_course_of_a_load_that_comes_and_goes(
    aggregation: str, up: list[tuple[float, int]], down: list[tuple[float, int]]
) -> None:
    """Worked out by hand: 6 requests at once for 10 s, a look-back of 4 s, up after 1 s, down after 2 s."""
    run = Run(
        spec(
            target_ongoing_requests=1.0,
            min_replicas=1,
            look_back_period_s=4.0,
            upscale_delay_s=1.0,
            downscale_delay_s=2.0,
            aggregation=aggregation,
        )
    )
    run.hold(5.0)
    for seconds, running, expected in ((10.0, 6.0, up), (10.0, 0.0, down)):
        began, before = run.now, len(run.decisions)
        run.hold(seconds, running=running)
        assert [(at - began, decision.replicas) for at, decision in run.decisions[before:]] == expected


def test_the_other_direction_waits_for_its_own_delay() -> None:
    run = Run(spec(upscale_delay_s=3.0, downscale_delay_s=5.0, look_back_period_s=0.1), replicas=3)
    run.hold(2.5, running=12)
    run.hold(4.5, running=2)
    run.hold(2.5, running=12)
    assert run.steps == []


def test_a_number_that_others_have_set_waits_its_whole_delay() -> None:
    run = Run(spec(downscale_delay_s=10.0), replicas=5)
    run.hold(8.0, running=2)
    run.replicas = 3
    run.hold(8.0, running=2)
    assert run.steps == []
    run.hold(3.0, running=2)
    assert run.steps == [1]


def test_new_settings_apply_to_the_delay_that_is_under_way() -> None:
    run = Run(spec(upscale_delay_s=600.0))
    run.hold(10.0, running=12)
    run.autoscaler.aim(spec(upscale_delay_s=5.0))
    run.decide()
    assert run.steps == [6]


# --- policies of users --------------------------------------------------------------------------------------

USERS = spec(policy=PolicySpec(b"", "app:night_and_day"), wants_stats=True)


def test_a_policy_decides_instead_of_the_load() -> None:
    run = Run(USERS)
    run.hold(1.0, running=12)
    assert run.steps == []
    run.autoscaler.advise(3)
    run.hold(1.0, running=12)
    assert run.steps == [3]
    assert run.reasons == ["policy app:night_and_day wants 3"]


def test_bounds_factors_and_delays_apply_to_policies_too() -> None:
    run = Run(spec(policy=USERS.policy, upscaling_factor=0.5, upscale_delay_s=2.0))
    run.autoscaler.advise(9)
    run.hold(1.5)
    assert run.steps == []
    run.hold(1.0)
    assert run.steps == [5]
    run.autoscaler.advise(1000)
    run.hold(60.0)
    assert run.replicas == 10
    assert run.reasons[0] == "policy app:night_and_day wants 9: for 2 s"


def test_a_policy_that_cannot_decide_changes_nothing_and_says_why() -> None:
    run = Run(USERS, replicas=4)
    run.hold(1.0)
    run.autoscaler.advise(4, "ZeroDivisionError: division by zero")
    run.hold(60.0)
    assert run.steps == []
    assert run.autoscaler.view(4).error == "ZeroDivisionError: division by zero"
    run.autoscaler.advise(2)
    run.hold(1.0)
    assert run.steps == [2]
    assert run.autoscaler.view(2).error == ""


def test_requests_for_a_deployment_without_replicas_do_not_wait_for_the_policy() -> None:
    run = Run(spec(wants_stats=True), replicas=0)
    run.hold(0.1, queued=3)
    assert run.steps == [1]


def test_a_policy_may_wake_a_deployment_without_a_request() -> None:
    run = Run(spec(wants_stats=True, upscale_delay_s=60.0), replicas=0)
    run.autoscaler.advise(2)
    run.hold(0.1)
    assert run.steps == [2]
    assert run.reasons == ["policy of the application wants 2"]


def test_another_policy_is_asked_before_it_decides() -> None:
    run = Run(USERS, replicas=2)
    run.autoscaler.advise(5)
    run.autoscaler.aim(spec(policy=PolicySpec(b"other", "app:other")))
    run.hold(5.0)
    assert run.steps == []


# --- whatever the load and the settings are -----------------------------------------------------------------

loads = st.builds(Load, st.integers(0, 3000).map(float), st.integers(0, 100).map(float))
factors = st.sampled_from([0.1, 0.3, 0.5, 1.0, 1.5, 3.0])
delays = st.sampled_from([0.0, 0.3, 2.0, 11.0])
settings_of_any_kind = st.builds(
    AutoscalingSpec,
    min_replicas=st.integers(0, 3),
    max_replicas=st.integers(3, 40),
    target_ongoing_requests=st.sampled_from([0.1, 0.5, 1.0, 2.0, 7.0]),
    look_back_period_s=st.sampled_from([0.5, 3.0, 30.0]),
    upscaling_factor=factors,
    downscaling_factor=factors,
    upscale_delay_s=delays,
    downscale_delay_s=delays,
    downscale_to_zero_delay_s=st.none() | delays,
    aggregation=st.sampled_from(["mean", "max", "min"]),
    wants_stats=st.booleans(),
)
phases = st.lists(st.tuples(st.floats(0.05, 8.0), loads, st.none() | st.integers(-5, 10**9)), max_size=8)


@given(settings_of_any_kind, phases)
def test_never_outside_the_bounds_and_to_zero_only_when_idle(
    settings: AutoscalingSpec, phases: list[tuple[float, Load, int | None]]
) -> None:
    run = Run(settings, replicas=settings.min_replicas)
    for seconds, load, advice in phases:
        if advice is not None:
            run.autoscaler.advise(advice)
        before, decided = run.replicas, len(run.decisions)
        run.hold(seconds, queued=load.queued, running=load.running)
        for _, decision in run.decisions[decided:]:
            assert settings.min_replicas <= decision.replicas <= settings.max_replicas
            if decision.replicas == 0:
                assert before == 1, "the last replica goes in a step of its own"
                assert load == Load(0.0, 0.0)
            before = decision.replicas


@given(settings_of_any_kind, loads, st.integers(0, 40))
def test_a_steady_load_comes_to_rest_near_what_it_needs(settings: AutoscalingSpec, load: Load, start: int) -> None:
    changes = {name: getattr(settings, name) for name in settings.__struct_fields__}
    settings = AutoscalingSpec(**{**changes, "wants_stats": False})
    run = Run(settings, replicas=min(max(start, settings.min_replicas), settings.max_replicas))
    run.hold(settings.look_back_period_s + 45 * 11.5, queued=load.queued, running=load.running)
    settled = len(run.decisions)
    run.hold(60.0, queued=load.queued, running=load.running)
    assert len(run.decisions) == settled, "it moves for ever"
    directions = [after > before for before, after in pairwise(run.steps)]
    assert sum(a != b for a, b in pairwise(directions)) <= 1, "it swings"
    total = load.queued + load.running
    enough = math.ceil(replicas_needed(total, settings.target_ongoing_requests) - 1e-9)
    if run.replicas or load.queued:
        low = max(settings.min_replicas, 1 if total else 0)
        assert run.replicas == min(max(enough, low), settings.max_replicas)


@given(st.integers(1, 50), st.floats(0, 200), st.floats(0, 200), factors, factors)
def test_more_load_never_means_fewer_replicas(
    target: int, needed: float, more: float, upscaling_factor: float, downscaling_factor: float
) -> None:
    step = replicas_after_step(target, needed, upscaling_factor, downscaling_factor)
    assert replicas_after_step(target, needed + more, upscaling_factor, downscaling_factor) >= step
    assert (step > target) == (math.ceil(needed - 1e-9) > target), "a step goes where it is needed"
    assert step >= min(target, math.ceil(needed - 1e-9)), "a step down leaves enough"


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 100)), max_size=60), st.sampled_from([0.5, 4.0, 100.0]))
def test_the_mean_is_that_of_the_number_over_time(samples: list[tuple[float, int]], period_s: float) -> None:
    window, now, history = LoadWindow(period_s), 0.0, list[tuple[float, float, int]]()
    for index, (seconds, value) in enumerate(samples):
        if index:
            history.append((now, now + seconds, samples[index - 1][1]))
            now += seconds
        window.add(value, now)
    parts = [(min(end, now) - max(start, now - period_s), value) for start, end, value in history]
    held = [(seconds, value) for seconds, value in parts if seconds > 0]
    duration = sum(seconds for seconds, _ in held)
    if duration > 0.01:
        piece = 2 * period_s / MOST_PIECES
        exact = sum(seconds * value for seconds, value in held) / duration
        assert window.aggregate("mean") == pytest.approx(exact, abs=100 * piece / duration + 1e-6)
        assert window.aggregate("max") >= max(value for _, value in held)
        assert window.aggregate("min") <= min(value for _, value in held)


@given(st.lists(st.floats(0.0, 20.0), max_size=30))
def test_memory_has_a_bound(gaps: list[float]) -> None:
    window, now = LoadWindow(30.0), 0.0
    for gap in gaps:
        for _ in range(40):
            now += gap / 40
            window.add(1, now)
        assert len(window) <= MOST_PIECES + 2
