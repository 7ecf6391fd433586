"""The programming model: ``from salver import serve``."""

from salver.serve.api import (
    delete,
    get_app_handle,
    get_deployment_handle,
    local_client,
    run,
    shutdown,
    start,
    status,
)
from salver.serve.batching.decorator import batch
from salver.serve.config import ControllerOptions, HTTPOptions, TracingConfig
from salver.serve.context import get_replica_context
from salver.serve.deployment import Application, Deployment, deployment
from salver.serve.ingress import ingress
from salver.serve.multiplex import get_multiplexed_model_id, multiplexed

__all__ = [
    "Application",
    "ControllerOptions",
    "Deployment",
    "HTTPOptions",
    "TracingConfig",
    "batch",
    "delete",
    "deployment",
    "get_app_handle",
    "get_deployment_handle",
    "get_multiplexed_model_id",
    "get_replica_context",
    "ingress",
    "local_client",
    "multiplexed",
    "run",
    "shutdown",
    "start",
    "status",
]
