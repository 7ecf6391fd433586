"""The programming model: ``from salver import serve``.

What only the process that builds and runs applications needs, and what not every application uses, is imported when
it is first asked for: this package is in every replica, and a megabyte here is one in each of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from salver.serve.config import ControllerOptions, HTTPOptions, TracingConfig
from salver.serve.context import get_replica_context
from salver.serve.deployment import Application, Deployment, deployment
from salver.serve.ingress import ingress

if TYPE_CHECKING:
    from salver.serve.api import (
        RunTarget,
        delete,
        get_app_handle,
        get_deployment_handle,
        local_client,
        run,
        run_many,
        shutdown,
        shutdown_async,
        start,
        status,
    )
    from salver.serve.batching import batch
    from salver.serve.multiplex import get_multiplexed_model_id, multiplexed

__all__ = [
    "Application",
    "ControllerOptions",
    "Deployment",
    "HTTPOptions",
    "RunTarget",
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
    "run_many",
    "shutdown",
    "shutdown_async",
    "start",
    "status",
]

_LATER = {
    "batch": "batching",
    "get_multiplexed_model_id": "multiplex",
    "multiplexed": "multiplex",
    **dict.fromkeys(
        (
            "RunTarget",
            "delete",
            "get_app_handle",
            "get_deployment_handle",
            "local_client",
            "run",
            "run_many",
            "shutdown",
            "shutdown_async",
            "start",
            "status",
        ),
        "api",
    ),
}
"""Names that are not here yet, and their modules. None is the name of a module: importing that would hide it."""


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module 'salver.serve' has no attribute {name!r}")
    value = getattr(import_module(f"salver.serve.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
