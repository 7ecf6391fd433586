"""What counts for what: requests that were due in the window, rates of what ended in it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from salver.bench.failure import Failure
from salver.bench.tally import Tally

BEGIN, END = 1000, 2000
TIMES = st.integers(0, 3000)
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("answered"), TIMES, TIMES, st.sampled_from([200, 302, 404, 429, 500, 503])),
        st.tuples(st.just("failed"), TIMES, TIMES, st.sampled_from(list(Failure))),
        st.tuples(st.just("expired"), TIMES),
        st.tuples(st.just("left"), TIMES),
    )
)


@settings(max_examples=50, deadline=None)
@given(HAPPENINGS)
def test_every_request_that_was_due_in_the_window_is_counted_once(happenings: list[tuple]) -> None:  # type: ignore[type-arg]
    tally = Tally(BEGIN, END)
    for kind, due, *rest in happenings:
        if kind == "answered":
            tally.answered(rest[1], due, due, due + rest[0])
        elif kind == "failed":
            tally.failed(rest[1], due)
        else:
            getattr(tally, kind)(due)
    assert tally.requests == sum(due >= BEGIN for _, due, *_ in happenings)
    assert tally.ended == tally.successful.count + tally.errors
    assert tally.rejected.count == tally.statuses[429] + tally.statuses[503]
    assert tally.successes_ended <= tally.answers_ended


def test_rates_are_of_what_ends_in_the_window_and_latencies_of_what_was_due_in_it() -> None:
    tally = Tally(BEGIN, END)
    tally.answered(200, BEGIN - 10, BEGIN, BEGIN + 10)  # of the warm-up
    tally.answered(200, END - 10, END, END + 500)  # a straggler
    tally.answered(500, BEGIN, BEGIN, BEGIN + 1)
    assert (tally.answers_ended, tally.successes_ended) == (2, 1)
    assert (tally.requests, tally.successful.count, tally.successful.largest) == (2, 1, 510)
    assert tally.first_byte.largest == 10


def test_waiting_for_a_connection_is_not_the_generator_s_lag() -> None:
    tally = Tally(BEGIN, END)
    tally.sent(due=1100, free=1500, now=1503)
    tally.sent(due=1600, free=1500, now=1601)
    assert (tally.waited, tally.lag.largest, tally.lag.total) == (1, 3, 4)


def test_a_run_that_is_cut_short_has_a_shorter_window() -> None:
    tally = Tally(0, 2 * 10**9)
    tally.answered(200, 0, 5, 10)
    tally.cut_short(10**9)
    assert tally.per_second(tally.answers_ended) == 1
    early = Tally(10**9, 2 * 10**9)
    early.cut_short(5)
    assert (early.window_s, early.per_second(7)) == (0, 0)
