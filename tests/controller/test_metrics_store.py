"""The latest snapshot of every process, added up; and totals that never go down."""

from __future__ import annotations

import msgspec
import pytest

from salver.controller import metrics_store
from salver.controller.metrics_store import MOST_SNAPSHOT_BYTES, MetricsStore
from salver.telemetry.metrics import MOST_LABEL_SETS, Registry


class Process:
    """A process that counts, and a connection by which it pushes."""

    def __init__(self, store: MetricsStore, name: str, *, replica: str = "") -> None:
        self.registry = Registry()
        self.connection = object()
        self._store = store
        self._name = name
        self._replica = replica

    def sold(self, amount: float = 1, item: str = "plate") -> None:
        self.registry.counter("sold", "Things.", ("item", "replica")).series((item, self._replica)).inc(amount)

    def open(self, value: float) -> None:
        self.registry.gauge("open", "", ("replica",)).series((self._replica,)).set(value)

    def price(self, value: float, boundaries: tuple[float, ...] = (1.0, 10.0)) -> None:
        self.registry.histogram("price", "", boundaries, ("replica",)).series((self._replica,)).observe(value)

    def push(self) -> None:
        self._store.received(self.connection, self._name, msgspec.msgpack.encode(self.registry.snapshot()))

    def hang_up(self) -> None:
        self._store.lost(self.connection)


@pytest.fixture
def store() -> MetricsStore:
    return MetricsStore(Registry())


def shown(store: MetricsStore, name: str) -> dict[tuple[str, ...], float | None]:
    """Values of a metric by values of tags; of a histogram, the sums."""
    return {
        tuple(series.tags.values()): series.value if series.value is not None else series.sum
        for family in store.families()
        if family.name == name
        for series in family.series
    }


def test_processes_are_added_up_where_tags_are_the_same(store: MetricsStore) -> None:
    one, two = Process(store, "1"), Process(store, "2")
    for process in (one, two):
        process.sold(2)
        process.open(1)
        process.price(5)
        process.push()
    two.sold(5, "cup")
    two.push()
    assert shown(store, "sold") == {("plate",): 4, ("cup",): 5}
    assert shown(store, "open") == {(): 2}
    [price] = [family for family in store.families() if family.name == "price"]
    assert msgspec.to_builtins(price) == {
        "name": "price",
        "type": "histogram",
        "description": "",
        "boundaries": (1, 10),
        "series": ({"tags": {}, "sum": 10, "count": 2, "buckets": (0, 2, 0)},),
    }


def test_its_own_process_counts_too() -> None:
    own = Registry()
    own.counter("started").series().inc()
    own.histogram("took", "", (1.0,)).series().observe(2)
    store = MetricsStore(own)
    assert (shown(store, "started"), shown(store, "took")) == ({(): 1}, {(): 2})


def test_a_push_replaces_the_one_before(store: MetricsStore) -> None:
    process = Process(store, "1", replica="r1")
    for _ in range(3):
        process.sold()
        process.push()
    assert shown(store, "sold") == {("plate", "r1"): 3}


def test_what_is_gone_stays_in_the_totals_without_its_gauges(store: MetricsStore) -> None:
    one, two = Process(store, "1", replica="r1"), Process(store, "2", replica="r2")
    for process in (one, two):
        process.sold(3)
        process.open(1)
        process.price(4)
        process.push()
    one.hang_up()
    assert shown(store, "sold") == {("plate",): 3, ("plate", "r2"): 3}
    assert shown(store, "price") == {(): 4, ("r2",): 4}
    assert shown(store, "open") == {("r2",): 1}
    one.hang_up()
    store.lost(object())
    assert sum(value or 0 for value in shown(store, "sold").values()) == 6


def test_a_process_whose_connection_only_broke_is_not_counted_twice(store: MetricsStore) -> None:
    process = Process(store, "1", replica="r1")
    process.sold(3)
    process.push()
    process.hang_up()
    process.connection = object()
    process.sold()
    process.push()
    assert shown(store, "sold") == {("plate", "r1"): 4}


def test_a_second_connection_keeps_a_process_present(store: MetricsStore) -> None:
    process = Process(store, "1", replica="r1")
    process.sold()
    process.push()
    first, process.connection = process.connection, object()
    process.push()
    store.lost(first)
    assert shown(store, "sold") == {("plate", "r1"): 1}


def test_many_processes_that_come_and_go_leave_bounded_totals(store: MetricsStore) -> None:
    count = MOST_LABEL_SETS + 200
    for number in range(count):
        process = Process(store, str(number), replica=f"r{number}")
        process.sold(1, item=f"item {number}")
        process.price(1)
        process.push()
        process.hang_up()
    sold = shown(store, "sold")
    assert sum(value or 0 for value in sold.values()) == count
    assert len(sold) <= MOST_LABEL_SETS + metrics_store._GONE_KEPT_APART + 1
    assert sold["other",] == 200 - metrics_store._GONE_KEPT_APART
    assert shown(store, "price") == {(): count}
    assert len(store._gone) == metrics_store._GONE_KEPT_APART
    assert not store._present
    assert not store._processes


def test_other_boundaries_are_another_histogram(store: MetricsStore) -> None:
    one, two = Process(store, "1"), Process(store, "2")
    one.price(5)
    two.price(5, boundaries=(2.0,))
    one.push()
    two.push()
    families = [family for family in store.families() if family.name == "price"]
    assert sorted(family.boundaries for family in families) == [(1, 10), (2,)]


def test_what_cannot_be_read_is_said_and_left_out(store: MetricsStore, caplog: pytest.LogCaptureFixture) -> None:
    good = Process(store, "good")
    good.sold()
    good.push()
    store.received(object(), "bad", b"\xff")
    for _ in range(3):
        store.received("its connection", "huge", bytes(MOST_SNAPSHOT_BYTES + 1))
    assert shown(store, "sold") == {("plate",): 1}
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        f"process huge has {MOST_SNAPSHOT_BYTES + 1} bytes of metrics",
        "the metrics of process bad cannot be read",
    ]
