"""When a batch closes and who is in it: the rules one by one, then against anything that may happen."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from salver.serve.batching.limits import BatchLimits
from salver.serve.batching.plan import Batch, BatchPlan, Decision, Pace, Reason, Waiting


class Item(Waiting):
    __slots__ = ("name", "weight")

    def __init__(self, name: object, kind: str = "", deadline: float = inf, weight: int = 1) -> None:
        super().__init__(kind, deadline)
        self.name = name
        self.weight = weight

    def __repr__(self) -> str:
        return f"Item({self.name!r}, {self.kind!r}, {self.deadline}, arrived={self.arrived})"


class Driven:
    """A plan, and what it decides, by name."""

    def __init__(self, size: int = 3, wait_s: float = 10.0, concurrent: int = 1, *, weighs: bool = False) -> None:
        self.limits = BatchLimits(size, wait_s, concurrent)
        self.pace = Pace()
        self.plan: BatchPlan[Item] = BatchPlan(self.limits, self.pace, total_weight if weighs else None)

    def add(self, *items: Item, at: float = 0.0) -> None:
        for item in items:
            self.plan.add(item, at)

    def poll(self, at: float = 0.0) -> list[tuple[str, Reason]]:
        decision = self.plan.poll(at)
        assert decision.expired == []
        return [("".join(str(item.name) for item in batch.calls), batch.reason) for batch in decision.batches]


def total_weight(items: Sequence[Item]) -> int:
    return sum(item.weight for item in items)


def test_a_full_batch_closes_at_once() -> None:
    driven = Driven(size=3)
    driven.add(Item("a"), Item("b"))
    assert driven.poll() == []
    driven.add(Item("c"), Item("d"))
    assert driven.poll() == [("abc", Reason.FULL)]
    assert driven.plan.waiting == 1


def test_the_first_call_of_a_batch_waits_for_no_longer_than_the_timeout() -> None:
    driven = Driven(wait_s=10)
    driven.add(Item("a"), at=5)
    driven.add(Item("b"), at=14)
    assert driven.plan.wake_at() == 15
    assert driven.poll(14.9) == []
    assert driven.poll(15) == [("ab", Reason.TIMEOUT)]
    assert driven.plan.wake_at() == inf


def test_an_endless_timeout_waits_until_the_batch_is_full() -> None:
    driven = Driven(size=2, wait_s=inf)
    driven.add(Item("a"))
    assert (driven.poll(1e9), driven.plan.wake_at()) == ([], inf)
    driven.add(Item("b"))
    assert driven.poll(1e9) == [("ab", Reason.FULL)]


def test_a_batch_grows_while_others_run() -> None:
    driven = Driven(size=4, wait_s=1, concurrent=1)
    driven.add(Item("a"))
    assert driven.poll(1) == [("a", Reason.TIMEOUT)]
    driven.add(Item("b"), at=1)
    assert (driven.poll(5), driven.plan.wake_at()) == ([], inf)
    driven.add(Item("c"), at=6)
    driven.plan.ended()
    assert driven.poll(7) == [("bc", Reason.TIMEOUT)]


def test_as_many_batches_run_as_are_allowed() -> None:
    driven = Driven(size=1, concurrent=2)
    driven.add(Item("a"), Item("b"), Item("c"))
    assert driven.poll() == [("a", Reason.FULL), ("b", Reason.FULL)]
    driven.plan.ended()
    assert driven.poll() == [("c", Reason.FULL)]
    assert driven.plan.running == 2


def test_kinds_are_apart() -> None:
    driven = Driven(size=2, concurrent=2)
    driven.add(Item("a", "x"), Item("b", "y"), Item("c", "x"), Item("d", "y"))
    assert driven.poll() == [("ac", Reason.FULL), ("bd", Reason.FULL)]


def test_the_line_that_was_due_first_goes_first() -> None:
    driven = Driven(size=2, wait_s=1, concurrent=1)
    driven.add(Item("-"), Item("-"))
    assert driven.poll() == [("--", Reason.FULL)]
    driven.add(Item("a", "rare"), at=1)
    driven.add(Item("b", "busy"), Item("c", "busy"), Item("d", "busy"), at=1.5)
    driven.plan.ended()
    assert driven.poll(3) == [("a", Reason.TIMEOUT)]


def test_a_deadline_closes_a_batch_halfway() -> None:
    driven = Driven(wait_s=100)
    driven.add(Item("a"), at=0)
    driven.add(Item("b", deadline=30), at=10)
    assert driven.plan.wake_at() == 20
    assert driven.poll(20) == [("ab", Reason.DEADLINE)]


def test_a_timeout_before_that_is_a_timeout() -> None:
    driven = Driven(wait_s=5)
    driven.add(Item("a", deadline=30))
    assert driven.poll(15) == [("a", Reason.TIMEOUT)]


def test_slow_executions_close_a_batch_earlier() -> None:
    driven = Driven(wait_s=100)
    for seconds in (500.0, 8.0, 8.0, 8.0):  # the first one loads things, and says nothing of the others
        driven.pace.record(seconds)
    driven.add(Item("a", deadline=30))
    assert driven.plan.wake_at() == 14
    driven.add(Item("b", "other", deadline=10))
    assert driven.poll(0) == [("b", Reason.DEADLINE)]


def test_an_urgent_call_that_leaves_hurries_nobody() -> None:
    driven = Driven(wait_s=100)
    urgent = Item("u", deadline=10)
    driven.add(Item("a"), urgent)
    assert driven.plan.wake_at() == 5
    driven.plan.remove(urgent)
    assert (driven.poll(5), driven.plan.wake_at()) == ([], 100)


def test_thousands_may_leave_at_once() -> None:
    """In no more than linear time: this would take minutes otherwise."""
    driven = Driven(size=10, wait_s=100)
    items = [Item(number, deadline=1000.0) for number in range(50_000)]
    driven.add(*items)
    for item in items[:-1]:
        driven.plan.remove(item)
    assert driven.poll(100) == [("49999", Reason.TIMEOUT)]


def test_calls_expire_while_they_wait_for_a_slot() -> None:
    driven = Driven(size=1)
    late = Item("late", deadline=10)
    driven.add(Item("a"))
    driven.poll()
    driven.add(late, Item("b"))
    assert driven.plan.wake_at() == 10
    decision = driven.plan.poll(10)
    assert (decision.expired, decision.batches) == ([late], [])
    driven.plan.ended()
    assert driven.poll(10) == [("b", Reason.FULL)]


def test_a_call_that_comes_too_late_is_never_executed() -> None:
    driven = Driven(size=1)
    late = Item("late", deadline=10)
    driven.add(late, at=11)
    assert driven.plan.poll(11) == Decision([late], [])
    assert driven.plan.is_idle


def test_removed_calls_are_in_no_batch() -> None:
    driven = Driven(size=2, wait_s=10)
    first, second = Item("a"), Item("b")
    driven.add(first, at=0)
    driven.add(second, at=4)
    driven.plan.remove(first)
    assert (driven.poll(10), driven.plan.wake_at()) == ([], 14)
    assert driven.poll(14) == [("b", Reason.TIMEOUT)]
    driven.plan.remove(second)
    assert driven.plan.running == 1


def test_draining_closes_what_waits_and_what_comes() -> None:
    driven = Driven(size=2, wait_s=100, concurrent=9)
    driven.add(Item("a", "x"), Item("b", "y"), Item("c", "y"))
    driven.plan.drain()
    assert sorted(driven.poll()) == [("a", Reason.DRAINED), ("bc", Reason.FULL)]
    driven.add(Item("d"))
    assert driven.poll() == [("d", Reason.DRAINED)]


def test_a_batch_that_is_open_keeps_the_limits_that_it_opened_with() -> None:
    driven = Driven(size=3, wait_s=10)
    driven.add(Item("a"))
    driven.limits.set_max_batch_size(2)
    driven.limits.set_batch_wait_timeout_s(1)
    driven.add(Item("b"))
    assert driven.poll(9) == []
    assert driven.poll(10) == [("ab", Reason.TIMEOUT)]
    driven.plan.ended()
    driven.add(Item("c"), Item("d"), Item("e"), at=10)
    assert driven.poll(10) == [("cd", Reason.FULL)]


def test_weights() -> None:
    driven = Driven(size=10, concurrent=9, weighs=True)
    driven.add(Item("a", weight=4), Item("b", weight=4))
    assert driven.poll() == []
    driven.add(Item("c", weight=4))  # does not fit: the batch before it is as full as it gets
    assert driven.poll() == [("ab", Reason.FULL)]
    driven.add(Item("d", weight=6))
    assert driven.poll() == [("cd", Reason.FULL)]


def test_a_removed_weight_makes_room() -> None:
    driven = Driven(size=10, weighs=True)
    heavy = Item("b", weight=8)
    driven.add(Item("a", weight=2), heavy, Item("c", weight=3))
    driven.plan.remove(heavy)
    assert driven.poll() == []
    driven.add(Item("d", weight=5))
    assert driven.poll() == [("acd", Reason.FULL)]


def test_what_alone_outweighs_a_batch_goes_alone() -> None:
    """The limit was lowered after it had come."""
    driven = Driven(size=10, wait_s=100, weighs=True)
    driven.add(Item("-", weight=10), Item("a", weight=8), Item("b"))
    driven.limits.set_max_batch_size(5)
    assert driven.poll() == [("-", Reason.FULL)]
    driven.plan.ended()
    assert driven.poll() == [("a", Reason.FULL)]


class PlanMachine(RuleBasedStateMachine):
    """Whatever happens: nobody is lost, nobody is executed twice, and every batch says truly why it closed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.limits = BatchLimits(3, 5.0, 2)
        self.plan: BatchPlan[Item] = BatchPlan(self.limits, Pace(), total_weight)
        self.waiting: list[Item] = []
        self.running = 0
        self.draining = False
        self.largest_limit = 3
        self.shortest_wait_s = self.longest_wait_s = 5.0
        self.most_concurrent = 2
        self.added = 0

    @rule(
        kind=st.sampled_from("xyz"),
        weight=st.integers(1, 4),
        time_left=st.one_of(st.just(inf), st.floats(-1, 20)),
    )
    def call_comes(self, kind: str, weight: int, time_left: float) -> None:
        item = Item(self.added, kind, self.now + time_left, weight)
        self.added += 1
        self.waiting.append(item)
        self.plan.add(item, self.now)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def caller_leaves(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(item)
        self.plan.remove(item)

    @precondition(lambda self: self.running)
    @rule()
    def batch_ends(self) -> None:
        self.running -= 1
        self.plan.ended()

    @rule(seconds=st.floats(0, 10))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(size=st.integers(1, 8), wait_s=st.floats(0, 10), concurrent=st.integers(1, 3))
    def limits_change(self, size: int, wait_s: float, concurrent: int) -> None:
        self.limits.set_max_batch_size(size)
        self.limits.set_batch_wait_timeout_s(wait_s)
        self.limits.max_concurrent_batches = concurrent
        self.largest_limit = max(self.largest_limit, size)
        self.shortest_wait_s = min(self.shortest_wait_s, wait_s)
        self.longest_wait_s = max(self.longest_wait_s, wait_s)
        self.most_concurrent = max(self.most_concurrent, concurrent)

    @rule()
    def replica_drains(self) -> None:
        self.draining = True
        self.plan.drain()

    @rule()
    def look(self) -> None:
        decision = self.plan.poll(self.now)
        assert all(item.deadline <= self.now for item in decision.expired)
        self._leave(decision.expired)
        assert all(item.deadline > self.now for item in self.waiting)
        for batch in decision.batches:
            self._check(batch)
        assert self.running <= self.most_concurrent
        if self.running < self.limits.max_concurrent_batches:
            assert self.plan.wake_at() > self.now, "what is due is not left lying"
            assert not (self.draining and self.waiting)
            assert all(self.now < item.arrived + self.longest_wait_s for item in self.waiting)
        assert self.plan.waiting == len(self.waiting)

    def _check(self, batch: Batch[Item]) -> None:
        self.running += 1
        calls = batch.calls
        (kind,) = {item.kind for item in calls}
        line = [item for item in self.waiting if item.kind == kind]
        assert calls == line[: len(calls)], "in the order in which they came"
        assert batch.weight == total_weight(calls)
        assert batch.weight <= batch.max_batch_size <= self.largest_limit or len(calls) == 1
        match batch.reason:
            case Reason.FULL:
                behind = line[: len(calls) + 1]
                assert batch.weight >= batch.max_batch_size or total_weight(behind) > batch.max_batch_size
            case Reason.TIMEOUT:
                assert calls[0].arrived + self.shortest_wait_s <= self.now
            case Reason.DEADLINE:
                assert any(item.close_by <= self.now for item in line)
            case Reason.DRAINED:
                assert self.draining
        self._leave(calls)

    def _leave(self, items: list[Item]) -> None:
        for item in items:
            self.waiting.remove(item)

    @invariant()
    def it_knows_how_many_run(self) -> None:
        assert self.plan.running == self.running
        assert self.plan.is_idle == (not self.waiting and not self.running)

    def teardown(self) -> None:
        """From anywhere, time and ending batches alone bring every call out."""
        for _ in range(2 * len(self.waiting) + 2):
            while self.running:
                self.batch_ends()
            self.look()
            wake_at = self.plan.wake_at()
            if wake_at < inf:
                self.now = max(self.now, wake_at)
        while self.running:
            self.batch_ends()
        assert not self.waiting
        assert self.plan.is_idle


PlanMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestPlan = PlanMachine.TestCase


@pytest.mark.parametrize("recorded", [[], [3.0], [1.0, 9.0, 2.0]])
def test_pace_is_a_median(recorded: list[float]) -> None:
    pace = Pace()
    for seconds in recorded:
        pace.record(seconds)
    assert pace.typical_s == (sorted(recorded)[len(recorded) // 2] if recorded else 0.0)
