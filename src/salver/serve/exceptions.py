"""The exceptions that users handle. ``ServeException`` is the root of all; ``RayServeException`` is the same."""

from salver.errors import (
    BackPressureError,
    ConfigurationError,
    DeploymentUnavailableError,
    RemoteException,
    ReplicaUnavailableError,
    RequestCancelledError,
    RequestTimeoutError,
    SerializationError,
    ServeException,
    StartupError,
)

RayServeException = ServeException

__all__ = [
    "BackPressureError",
    "ConfigurationError",
    "DeploymentUnavailableError",
    "RayServeException",
    "RemoteException",
    "ReplicaUnavailableError",
    "RequestCancelledError",
    "RequestTimeoutError",
    "SerializationError",
    "ServeException",
    "StartupError",
]
