"""Names, signatures and attributes that code written for Ray Serve 2.60 imports and reads."""

from __future__ import annotations

import inspect
import pickle  # noqa: TID251 - what has been raised in another process
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest

from salver import serve
from salver.data.context import RequestContext
from salver.serve import autoscaling_policy, context, exceptions, handle, metrics
from salver.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)


def parameters(function: Any) -> dict[str, Any]:
    """Names and defaults, without ``self``."""
    found = inspect.signature(function).parameters.values()
    return {each.name: None if each.default is each.empty else each.default for each in found if each.name != "self"}


def test_members_of_handles() -> None:
    derived = {"options", "remote", "choose_replica", "dispatch", "broadcast"}
    life = {"_init", "running_replicas_populated", "shutdown", "shutdown_async", "is_initialized"}
    assert derived | life | {"deployment_name", "app_name"} <= set(dir(handle.DeploymentHandle))
    assert {"result", "cancel", "cancelled", "request_id", "by_reference"} <= set(dir(handle.DeploymentResponse))
    assert parameters(handle.DeploymentResponse.result) == {"timeout_s": None}
    assert {"cancel", "__iter__", "__aiter__"} <= set(dir(handle.DeploymentResponseGenerator))
    for method in ("results", "results_async"):
        given = parameters(getattr(handle.DeploymentBroadcastResponse, method))
        assert given == {"timeout_s": None, "return_exceptions": False}
    chosen = {each.name for each in fields(handle.ReplicaSelection)}
    assert {"replica_id", "node_ip", "port", "node_id", "availability_zone", "replica_metadata"} <= chosen
    assert isinstance(handle.ReplicaSelection.address, property)


def test_back_pressure() -> None:
    error = BackPressureError(3, 2)
    assert (error.num_queued_requests, error.max_queued_requests) == (3, 2)
    assert (error.status_code, error.retry_after_s) == (503, None)
    text = "Request dropped due to backpressure (num_queued_requests=3, max_queued_requests=2)."
    assert error.message == str(error) == text
    later = BackPressureError(3, 2, status_code=429, retry_after_s=1.5)
    assert (later.status_code, later.retry_after_s) == (429, 1.5)


@pytest.mark.parametrize(
    ("error", "attribute", "value"),
    [
        (BackPressureError(3, 2, 429, 1.5), "retry_after_s", 1.5),
        (RequestCancelledError(), "request_id", None),
        (RequestCancelledError("mine"), "request_id", "mine"),
        (DeploymentUnavailableError("shop#Till"), "deployment_id", "shop#Till"),
        (ReplicaUnavailableError("shop#Till#abc"), "replica_id", "shop#Till#abc"),
    ],
)
def test_exceptions_have_one_root_and_travel(error: Exception, attribute: str, value: object) -> None:
    assert isinstance(error, RayServeException)
    assert isinstance(error, Exception)
    there = pickle.loads(pickle.dumps(error))
    assert (type(there), str(there)) == (type(error), str(error))
    assert getattr(there, attribute) == value


def test_the_root_of_exceptions_is_an_exception_with_a_text() -> None:
    assert RayServeException is exceptions.ServeException
    assert str(RayServeException("what happened")) == "what happened"


def test_what_a_replica_and_a_request_know_of_themselves() -> None:
    known = {each.name for each in fields(context.ReplicaContext)}
    assert {"app_name", "deployment", "replica_id", "servable_object", "rank", "world_size", "code_version"} <= known
    assert "gang_context" in known
    assert isinstance(context.ReplicaContext.replica_tag, property)
    request = context._get_serve_request_context()
    assert isinstance(request, RequestContext)
    outside: dict[str, object] = {"route": "", "request_id": "", "app_name": "", "is_http_request": False}
    outside |= {"multiplexed_model_id": "", "session_id": ""}
    assert {name: getattr(request, name) for name in outside} == outside


def test_metrics_take_what_they_take_there() -> None:
    assert parameters(metrics.Counter.__init__) == {"name": None, "description": "", "tag_keys": None}
    assert parameters(metrics.Gauge.__init__) == {"name": None, "description": "", "tag_keys": None}
    assert list(parameters(metrics.Histogram.__init__)) == ["name", "description", "boundaries", "tag_keys"]
    assert parameters(metrics.Counter.inc) == {"value": 1.0, "tags": None}
    assert list(parameters(metrics.Gauge.set)) == ["value", "tags"]
    assert list(parameters(metrics.Histogram.observe)) == ["value", "tags"]
    assert all(hasattr(each, "set_default_tags") for each in (metrics.Counter, metrics.Gauge, metrics.Histogram))


def test_decorators_take_what_they_take_there() -> None:
    defaults = {
        "max_batch_size": 10,
        "batch_wait_timeout_s": 0.01,
        "max_concurrent_batches": 1,
        "batch_size_fn": None,
    }
    assert parameters(serve.batch).items() >= defaults.items()
    assert parameters(serve.multiplexed) == {"func": None, "max_num_models_per_replica": 3}
    assert list(parameters(serve.ingress)) == ["app"]
    assert serve.get_multiplexed_model_id() == ""


@pytest.mark.parametrize("module", ["grpc_util", "gradio_integrations", "gang"])
def test_modules_that_come_later(module: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        import_module(f"salver.serve.{module}")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (exceptions, "gRPCStatusError"),
        (context, "DeploymentActorContext"),
        (RequestContext, "grpc_context"),
        (handle.DeploymentResponse, "_to_object_ref"),
        (handle.DeploymentResponse, "_to_object_ref_sync"),
        (serve, "get_deployment_actor"),
        (serve, "get_trace_context"),
        (autoscaling_policy, "PrometheusQueryMixin"),
        (autoscaling_policy, "AsyncInferenceAutoscalingPolicy"),
    ],
)
def test_names_that_are_not_there(place: object, name: str) -> None:
    """The page about the reference says so: change it when one of them comes."""
    assert not hasattr(place, name)
