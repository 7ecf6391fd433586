"""The registry: values, bounds, threads, and when it tells that something has changed."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.errors import ConfigurationError
from salver.telemetry.metrics import (
    MOST_FAMILIES,
    MOST_LABEL_SETS,
    OTHER,
    FamilySnapshot,
    Registry,
    SeriesSnapshot,
)


def only(registry: Registry) -> FamilySnapshot:
    [family] = registry.snapshot()
    return family


def test_a_snapshot_has_every_series_and_travels_as_msgpack() -> None:
    registry = Registry()
    requests = registry.counter("requests", "How many.", ("route", "status"))
    requests.series(("/", "200")).inc()
    requests.series(("/", "200")).inc(2.5)
    requests.series(("/", "500")).inc()
    registry.gauge("load").series().set(3)
    registry.histogram("latency", "", (1.0, 10.0)).series().observe(4)
    registry.counter("never updated")

    snapshot = registry.snapshot()
    assert snapshot == (
        FamilySnapshot(
            "requests",
            "counter",
            "How many.",
            ("route", "status"),
            (),
            (SeriesSnapshot(("/", "200"), (3.5,)), SeriesSnapshot(("/", "500"), (1,))),
        ),
        FamilySnapshot("load", "gauge", "", (), (), (SeriesSnapshot((), (3,)),)),
        FamilySnapshot("latency", "histogram", "", (), (1.0, 10.0), (SeriesSnapshot((), (4, 0, 1, 0)),)),
    )
    encoded = msgspec.msgpack.encode(snapshot)
    assert msgspec.msgpack.decode(encoded, type=tuple[FamilySnapshot, ...]) == snapshot
    assert registry.snapshot() == snapshot, "reading takes nothing away"


@given(st.lists(st.integers(-5, 30)))
def test_an_observation_is_in_the_first_bucket_whose_boundary_it_does_not_exceed(values: list[int]) -> None:
    registry = Registry()
    latency = registry.histogram("latency", "", (0.0, 5.0, 10.0)).series()
    for value in values:
        latency.observe(value)
    expected = [0, 0, 0, 0]
    for value in values:
        expected[next((n for n, bound in enumerate((0, 5, 10)) if value <= bound), 3)] += 1
    assert latency.read() == (sum(values), *expected)


def test_the_same_metric_twice_is_one() -> None:
    registry = Registry()
    first, second = (registry.counter("name", "", ("tag",)) for _ in range(2))
    assert first is second
    registry.counter("name", "", ("other tag",)).series(("x",)).inc()
    first.series(("x",)).inc()
    assert [family.label_names for family in registry.snapshot()] == [("tag",), ("other tag",)]


def test_one_name_is_one_kind() -> None:
    registry = Registry()
    registry.counter("name")
    with pytest.raises(ConfigurationError, match="'name' is a counter already, it cannot be a gauge as well"):
        registry.gauge("name")


def test_label_sets_are_bounded_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    users = registry.counter("users", "", ("app", "user"), kept=1)
    for number in range(MOST_LABEL_SETS + 50):
        users.series(("shop", str(number))).inc()
    users.series(("desk", "new")).inc()
    users.series(("shop", "3")).inc()
    values = {series.labels: series.values[0] for series in only(registry).series}
    assert len(values) == MOST_LABEL_SETS + 2
    assert values["shop", OTHER] == 50
    assert values["desk", OTHER] == 1
    assert values["shop", "3"] == 2
    [record] = caplog.records
    assert "Metric 'users' has more than 1000 sets of tag values" in record.getMessage()


def test_families_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    for number in range(MOST_FAMILIES + 3):
        registry.counter(f"metric {number}").series().inc()
    assert len(registry.snapshot()) == MOST_FAMILIES
    [record] = caplog.records
    assert f"'metric {MOST_FAMILIES}' and later ones are not seen" in record.getMessage()
    registry.counter("metric 0").series().inc()
    assert registry.snapshot()[0].series[0].values == (2,)


def test_the_first_change_after_a_snapshot_is_told_and_no_other() -> None:
    registry = Registry()
    told: list[bool] = []
    counter, gauge = registry.counter("c").series(), registry.gauge("g").series()
    histogram = registry.histogram("h", "", (1.0,)).series()
    counter.inc()
    assert registry.changed, "also when nobody listens yet"
    registry.snapshot()
    registry.listen(lambda: told.append(True))
    updates: list[Callable[[], None]] = [counter.inc, lambda: gauge.set(1), lambda: histogram.observe(1)]
    for number, update in enumerate(updates, start=1):
        update()
        update()
        assert len(told) == number
        assert registry.changed
        registry.snapshot()
        assert not registry.changed
    registry.listen(None)
    counter.inc()
    assert len(told) == 3


def test_threads_lose_nothing() -> None:
    registry = Registry()
    family = registry.counter("c", "", ("thread",))
    histogram = registry.histogram("h", "", (0.5,)).series()
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        for number in range(5000):
            family.series(("all",)).inc()
            family.series((str(number % 50),)).inc()
            histogram.observe(number % 2)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        total, low, high = histogram.read()
        assert total == high, "sum and buckets are of one moment"
        assert low >= 0
    for thread in threads:
        thread.join()
    values = {series.labels: series.values[0] for series in registry.snapshot()[0].series}
    assert values.pop(("all",)) == 40_000
    assert set(values.values()) == {800}
    assert histogram.read() == (20_000, 20_000, 20_000)


def test_a_destructor_may_count_while_its_thread_counts() -> None:
    registry = Registry()
    family = registry.counter("c", "", ("name",))

    class Counts:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            family.series(("deleted",)).inc()

    done = threading.Event()

    def work() -> None:
        with family.lock:  # the collector may run anywhere in there
            Counts()
            gc.collect()
        done.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert done.wait(30)
    thread.join()
    assert only(registry).series[0].values[0] >= 1
