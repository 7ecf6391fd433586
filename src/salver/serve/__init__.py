"""The programming model: ``from salver import serve``."""

from salver.serve.api import (
    delete,
    get_app_handle,
    get_deployment_handle,
    run,
    shutdown,
    start,
    status,
)
from salver.serve.config import HTTPOptions
from salver.serve.deployment import Application, Deployment, deployment

__all__ = [
    "Application",
    "Deployment",
    "HTTPOptions",
    "delete",
    "deployment",
    "get_app_handle",
    "get_deployment_handle",
    "run",
    "shutdown",
    "start",
    "status",
]
