"""What the request path counts; the registry is the process's, so every test has an application of its own."""

from __future__ import annotations

from salver.data import request_metrics
from salver.data.context import ReplicaIdentity
from salver.data.request_metrics import ReplicaRequests, http_answered, http_started
from salver.telemetry.metrics import registry


def series(name: str, application: str) -> dict[tuple[str, ...], tuple[float, ...]]:
    """Values by the other labels, of one application."""
    [family] = [family for family in registry.snapshot() if family.name == name]
    at = family.label_names.index("application")
    return {
        (*each.labels[:at], *each.labels[at + 1 :]): each.values
        for each in family.series
        if each.labels[at] == application
    }


def ongoing() -> float:
    found = [family for family in registry.snapshot() if family.name == "serve_num_ongoing_http_requests"]
    return found[0].series[0].values[0] if found else 0


def test_http_requests() -> None:
    before = ongoing()
    for status, seconds in ((200, 0.0005), (200, 0.15), (404, 0.001), (499, 2)):
        http_started()
        assert ongoing() == before + 1
        http_answered("/shop", "GET", "http", status, seconds)
        assert ongoing() == before
    assert series("serve_num_http_requests", "http") == {
        ("/shop", "GET", "200"): (2,),
        ("/shop", "GET", "404"): (1,),
        ("/shop", "GET", "499"): (1,),
    }
    assert series("serve_num_http_error_requests", "http") == {
        ("/shop", "404", "GET"): (1,),
        ("/shop", "499", "GET"): (1,),
    }
    total, *buckets = series("serve_http_request_latency_ms", "http")["GET", "/shop", "200"]
    assert total == 150.5
    assert [number for number, count in enumerate(buckets) if count] == [0, 7]  # up to 1 ms; 100 to 200 ms


def test_methods_that_clients_invent_are_counted_together() -> None:
    before = len(request_metrics._answered)
    for number in range(6000):
        http_started()
        http_answered("/", f"METHOD{number}", "invented", 200, 0.1)
    assert series("serve_num_http_requests", "invented") == {("/", "other", "200"): (6000,)}
    assert len(request_metrics._answered) <= max(before, 4096)


def test_requests_of_a_replica() -> None:
    requests = ReplicaRequests(ReplicaIdentity("calls", "D", "calls#D#x"))
    who = ("D", "calls#D#x")
    assert series("serve_deployment_replica_starts", "calls") == {who: (1,)}
    requests.call_started()
    requests.call_started()
    assert series("serve_replica_processing_queries", "calls") == {who: (2,)}
    requests.call_ended("/a", 0.02)
    requests.call_ended("/a", 0.03, "KeyError")
    assert series("serve_replica_processing_queries", "calls") == {who: (0,)}
    assert series("serve_deployment_request_counter", "calls") == {(*who, "/a"): (1,)}
    assert series("serve_deployment_error_counter", "calls") == {(*who, "/a", "KeyError"): (1,)}
    total, *buckets = series("serve_deployment_processing_latency_ms", "calls")[*who, "/a"]
    assert (total, sum(buckets)) == (50, 2)
