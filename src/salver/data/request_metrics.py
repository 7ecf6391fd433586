"""What the request path counts by itself, under the reference's names, so that its dashboards fit.

Series are found once for each combination of tags and kept, so a request costs one dictionary look-up here and one
short lock for each value: less than a microsecond in the proxy, and as much in the replica.
"""

from __future__ import annotations

from salver.data.context import ReplicaIdentity
from salver.telemetry.metrics import LATENCY_BOUNDARIES_MS, OTHER, Distribution, Value, registry

_MOST_COMBINATIONS = 4096
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "WS"})
_ERROR_FROM = 400

_http_requests = registry.counter(
    "serve_num_http_requests",
    "HTTP requests that were answered.",
    ("route", "method", "application", "status_code"),
)
_http_errors = registry.counter(
    "serve_num_http_error_requests",
    "HTTP requests that were answered with 400 or above; 499 is a client that left before.",
    ("route", "error_code", "method", "application"),
)
_http_latency = registry.histogram(
    "serve_http_request_latency_ms",
    "From the head of an HTTP request to the end of its answer.",
    LATENCY_BOUNDARIES_MS,
    ("method", "route", "application", "status_code"),
)
_http_ongoing = registry.gauge("serve_num_ongoing_http_requests", "HTTP requests that the proxies work on.")

_Answered = tuple[Value, Value, Distribution, Value | None]
"""Ongoing, requests, latency; errors, None below 400."""
_answered: dict[tuple[str, str, str, int], _Answered] = {}


def http_started() -> None:
    """A request's head has come. Every one must end with ``http_answered``."""
    _http_ongoing.series().add()


def http_answered(route: str, method: str, application: str, status: int, seconds: float) -> None:
    """A request that ``http_started`` has ended.

    Args:
        route: the application's route prefix, empty where none matched.
        application: its name, empty for none.
        status: what was answered; 499 when the client left before.
        seconds: from its head to the end of its answer.
    """
    key = (route, method, application, status)
    ongoing, requests, latency, errors = _answered.get(key) or _find_answered(key)
    ongoing.add(-1)
    requests.add()
    latency.add(seconds * 1000)
    if errors is not None:
        errors.add()


def _find_answered(key: tuple[str, str, str, int]) -> _Answered:
    route, method, application, status = key
    code = str(status)
    if method not in _METHODS:  # any word is a method: clients must not fill the memory with them
        method = OTHER
    found = (
        _http_ongoing.series(),
        _http_requests.series((route, method, application, code)),
        _http_latency.series((method, route, application, code)),
        _http_errors.series((route, code, method, application)) if status >= _ERROR_FROM else None,
    )
    if len(_answered) < _MOST_COMBINATIONS:
        _answered[key] = found
    return found


_REPLICA = ("deployment", "replica", "application")
_processing = registry.gauge("serve_replica_processing_queries", "Requests that the replica runs.", _REPLICA)
_calls = registry.counter(
    "serve_deployment_request_counter", "Requests that the replica answered.", (*_REPLICA, "route")
)
_failed_calls = registry.counter(
    "serve_deployment_error_counter",
    "Requests in which the replica's code raised.",
    (*_REPLICA, "route", "exception_type"),
)
_call_latency = registry.histogram(
    "serve_deployment_processing_latency_ms",
    "From the start of a request in the replica to its end.",
    LATENCY_BOUNDARIES_MS,
    (*_REPLICA, "route"),
)
_starts = registry.counter("serve_deployment_replica_starts", "Replicas whose constructor has returned.", _REPLICA)


class ReplicaRequests:
    """What one replica counts; made when its constructor has returned."""

    def __init__(self, identity: ReplicaIdentity) -> None:
        self._tags = (identity.deployment, identity.replica_id, identity.app_name)
        self._processing = _processing.series(self._tags)
        self._routes: dict[str, tuple[Value, Distribution]] = {}
        _starts.series(self._tags).add()

    def call_started(self) -> None:
        """A slot is taken. Every one must end with ``call_ended``."""
        self._processing.value += 1
        if not registry.changed:
            registry.tell()

    def call_ended(self, route: str, seconds: float, exception_type: str = "") -> None:
        """The slot is free again.

        Args:
            route: of the request at the root, as ``RequestContext`` has it.
            seconds: since it started.
            exception_type: name of the class that the user's code raised, empty when it did not.
        """
        calls, latency = self._routes.get(route) or self._find_route(route)
        self._processing.value -= 1
        if exception_type:
            _failed_calls.series((*self._tags, route, exception_type)).add()
        else:
            calls.value += 1
        latency.add(seconds * 1000)  # last: it tells of all

    def _find_route(self, route: str) -> tuple[Value, Distribution]:
        tags = (*self._tags, route)
        found = (_calls.series(tags), _call_latency.series(tags))
        if len(self._routes) < _MOST_COMBINATIONS:
            self._routes[route] = found
        return found
