"""Metrics of user code, without processes: what they count, which tags they carry, what they refuse."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from salver import serve
from salver.serve import metrics
from salver.serve.metrics import Counter, Gauge, Histogram, Metric
from salver.telemetry.metrics import MOST_LABEL_SETS, registry
from salver.wire.payload import dump_value, load_value

uvloop.new_event_loop().close()  # the first loop of a process opens a pipe for good: no test leaves that behind

_numbers = itertools.count()

AnyMetric = type[Metric[Any]]


@pytest.fixture
def name() -> str:
    """A metric's name that no test has used: the registry is the process's."""
    return f"test_metric_{next(_numbers)}"


def values(name: str) -> dict[tuple[tuple[str, str], ...], tuple[float, ...]]:
    """Series of a metric: values by tags, those without a value left out."""
    return {
        tuple(
            (key, value) for key, value in zip(family.label_names, series.labels, strict=True) if value
        ): series.values
        for family in registry.snapshot()
        if family.name == name
        for series in family.series
    }


def make(kind: AnyMetric, name: str, **arguments: Any) -> Any:
    if kind is Histogram:
        arguments.setdefault("boundaries", [1.0])
    return kind(name, **arguments)


def update(metric: Any, tags: dict[str, Any] | None = None) -> None:
    call = {Counter: "inc", Gauge: "set", Histogram: "observe"}[type(metric)]
    getattr(metric, call)(1, tags=tags)


every_kind = pytest.mark.parametrize("kind", [Counter, Gauge, Histogram])


def test_what_the_three_kinds_do(name: str) -> None:
    counter = Counter(f"{name}_c", "Counts.")
    counter.inc()
    counter.inc(2.5)
    assert values(f"{name}_c") == {(): (3.5,)}
    gauge = Gauge(f"{name}_g")
    gauge.set(7)
    gauge.set(-2)
    gauge.set(None)
    assert values(f"{name}_g") == {(): (-2.0,)}
    histogram = Histogram(f"{name}_h", boundaries=[10, 1, 1])
    for value in (0.5, 1, 3, 100):
        histogram.observe(value)
    assert values(f"{name}_h") == {(): (104.5, 2, 1, 1)}


def test_tags_and_their_defaults(name: str) -> None:
    counter = Counter(name, tag_keys=("model", "size")).set_default_tags({"size": "small"})
    counter.inc(tags={"model": "a"})
    counter.inc(tags={"model": "a", "size": "large"})
    counter.inc(tags={"size": "large", "model": "a"})
    counter.set_default_tags({"model": "b", "size": "tiny"})
    counter.inc()
    counter.inc(tags={"model": "a"})
    assert values(name) == {
        (("model", "a"), ("size", "small")): (1,),
        (("model", "a"), ("size", "large")): (2,),
        (("model", "b"), ("size", "tiny")): (1,),
        (("model", "a"), ("size", "tiny")): (1,),
    }
    assert counter.info == {
        "name": name,
        "description": "",
        "tag_keys": ("model", "size"),
        "default_tags": {"model": "b", "size": "tiny"},
    }


@every_kind
def test_the_same_metric_twice_counts_into_one(kind: AnyMetric, name: str) -> None:
    for _ in range(2):
        update(make(kind, name, tag_keys=("a",)), {"a": "x"})
    assert len(values(name)) == 1
    if kind is Counter:
        assert values(name) == {(("a", "x"),): (2,)}


@every_kind
def test_wrong_tags(kind: AnyMetric, name: str) -> None:
    metric = make(kind, name, tag_keys=("model",))
    with pytest.raises(ValueError, match=r"Unrecognized tag key modle\. Metric '.*' declares tag_keys: model"):
        update(metric, {"modle": "a"})
    with pytest.raises(ValueError, match=r"Missing value for tag key\(s\): model\."):
        update(metric)
    with pytest.raises(TypeError, match=r"Tag values must be str, got <class 'int'>"):
        update(metric, {"model": 1})
    with pytest.raises(TypeError, match=r"Tag values must be str, got <class 'list'>"):
        update(metric, {"model": []})
    with pytest.raises(ValueError, match="Unrecognized tag key size"):
        metric.set_default_tags({"size": "s"})
    with pytest.raises(TypeError, match="Tag values must be str"):
        metric.set_default_tags({"model": None})
    assert values(name) == {}


@every_kind
def test_wrong_definitions(kind: AnyMetric, name: str) -> None:
    with pytest.raises(ValueError, match="Empty name is not allowed"):
        make(kind, "")
    with pytest.raises(TypeError, match=r"must be str, got <class 'NoneType'>"):
        make(kind, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"tag_keys should be a tuple type, got: <class 'str'>"):
        make(kind, name, tag_keys="model")
    with pytest.raises(TypeError, match=r"Tag keys must be str, got <class 'int'>"):
        make(kind, name, tag_keys=(1,))
    other = Gauge if kind is not Gauge else Counter
    make(kind, name)
    with pytest.raises(ValueError, match=f"Metric '{name}' is a .* already"):
        make(other, name)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_counter_only_goes_up(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="value must be >0, got"):
        Counter(name).inc(value)
    assert values(name) == {}


@pytest.mark.parametrize("boundaries", [None, [], ()])
def test_a_histogram_needs_boundaries(name: str, boundaries: Any) -> None:
    with pytest.raises(ValueError, match=r"boundaries argument should be provided .* boundaries=\[1.0, 2.0\]"):
        Histogram(name, boundaries=boundaries)


def test_numbers_are_numbers(name: str) -> None:
    with pytest.raises(TypeError, match="value must be int or float"):
        Counter(f"{name}_c").inc("1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="value must be int or float"):
        Gauge(f"{name}_g").set([])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="value must be int or float"):
        Histogram(f"{name}_h", boundaries=["1"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="must be finite"):
        Histogram(f"{name}_h", boundaries=[1, float("inf")])
    with pytest.raises(ValueError, match="value must be finite"):
        Histogram(f"{name}_h", boundaries=[1]).observe(float("nan"))


def test_more_tag_values_than_there_is_room_for(name: str) -> None:
    counter = Counter(name, tag_keys=("user",))
    for number in range(MOST_LABEL_SETS + 10):
        counter.inc(tags={"user": str(number)})
        counter.inc(tags={"user": str(number)})
    found = values(name)
    assert len(found) == MOST_LABEL_SETS + 1
    assert found[("user", "other"),] == (20,)


@every_kind
def test_metrics_travel_with_the_code_that_uses_them(kind: AnyMetric, name: str) -> None:
    metric = make(kind, name, description="d", tag_keys=("a",)).set_default_tags({"a": "x"})
    again = load_value(dump_value(metric))
    assert again.info == metric.info
    update(again)
    assert list(values(name)) == [(("a", "x"),)]


shared = Counter("test_metric_shared_by_replicas", tag_keys=("method",))


@serve.deployment(num_replicas=2)
class Counted:
    def __init__(self) -> None:
        self.own = Counter("test_metric_of_a_replica")

    def count(self) -> None:
        shared.inc(tags={"method": "count"})
        self.own.inc()

    def count_in_a_thread(self) -> None:
        thread = threading.Thread(target=self.own.inc)
        thread.start()
        thread.join()

    def reserved(self) -> None:
        Counter("test_metric_reserved", tag_keys=("replica",))


@pytest.fixture
def handle() -> Generator[Any]:
    yield serve.run(Counted.bind(), name="shop", _local_testing_mode=True)
    serve.shutdown()


def test_metrics_of_a_replica_carry_its_tags(handle: Any) -> None:
    for _ in range(20):
        handle.count.remote().result(timeout_s=30)
    for metric, more in (("test_metric_shared_by_replicas", {"method": "count"}), ("test_metric_of_a_replica", {})):
        found = {dict(tags).pop("replica"): (dict(tags), count) for tags, (count,) in values(metric).items()}
        assert sum(count for _, count in found.values()) == 20
        for replica, (tags, _) in found.items():
            assert replica.startswith("shop#Counted#")
            assert tags == {"deployment": "Counted", "replica": replica, "application": "shop", **more}
    handle.count_in_a_thread.remote().result(timeout_s=30)
    assert sum(count for (count,) in values("test_metric_of_a_replica").values()) == 21
    assert all(dict(tags)["deployment"] == "Counted" for tags in values("test_metric_of_a_replica"))


def test_the_automatic_tags_are_reserved_in_a_replica(handle: Any) -> None:
    with pytest.raises(ValueError, match="'replica' tag is reserved"):
        handle.reserved.remote().result(timeout_s=30)


def test_elsewhere_they_are_tags_like_others(name: str) -> None:
    Counter(name, tag_keys=("deployment",)).inc(tags={"deployment": "mine"})
    assert values(name) == {(("deployment", "mine"),): (1,)}


RAY_NAMES = """
from salver.compat import ray as alias
alias.install()
from ray.serve.metrics import Counter
from ray.serve import metrics
import ray.util.metrics
from ray.util import metrics as util_metrics
from ray.util.metrics import Counter as Same, Gauge, Histogram
import salver.serve.metrics as real
assert Counter is Same is real.Counter and Gauge is real.Gauge and Histogram is real.Histogram
assert metrics is util_metrics is ray.util.metrics is real
assert real.__name__ == real.__spec__.name == "salver.serve.metrics"
try:
    import ray.util.queue
except ImportError as error:
    assert error.name == "ray.util.queue"
else:
    raise SystemExit("it was found")
"""


def test_rays_names_for_them(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RAY_NAMES], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert metrics.Counter is Counter
