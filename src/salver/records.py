"""Records that cross layers: frozen, typed, encodable as msgpack. No behaviour beyond naming.

The data plane and the control plane meet only here and in ``wire.snapshot``.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

JsonDict = dict[str, Any]


class DeploymentId(Struct, frozen=True, array_like=True, order=True):
    """One deployment of one application; ``str()`` gives ``app#name``."""

    app: str
    name: str

    def __str__(self) -> str:
        return f"{self.app}#{self.name}"


class CodeContext(Struct, frozen=True):
    """Where a replica finds the user's code: what the process that built the application had.

    Attributes:
        sys_path: the builder's ``sys.path``, first entries first.
        cwd: its current folder.
        setup: functions (``module:name``) that a replica calls before it imports user code (``compat`` uses it).
    """

    sys_path: tuple[str, ...] = ()
    cwd: str = ""
    setup: tuple[str, ...] = ()


class DeploymentSpec(Struct, frozen=True):
    """What the user wants of one deployment, complete: the controller needs nothing else, and no user code.

    Attributes:
        id: application and deployment name.
        version: content hash of code, arguments and the options whose change needs new replicas.
        definition: pickled (class or function, init args, init kwargs), opaque to the control plane.
        num_replicas: target number of replicas, at least 0.
        max_ongoing_requests: slots of one replica.
        max_queued_requests: bound of each caller's queue; -1 is unlimited.
        startup_timeout_s: how long one replica may take to construct.
        graceful_shutdown_timeout_s: how long one replica may take to finish its requests.
        max_constructor_failures: failures of this version after which the deployment has failed.
        user_config: for the class's ``reconfigure``, None for no call of it.
        backpressure_status, retry_after_s: what an HTTP client hears when the queue is full.
        idempotent: a request may be sent again after its replica died.
        options: every option as the user sees it, JSON-able, for status.
    """

    id: DeploymentId
    version: str
    definition: bytes
    num_replicas: int = 1
    max_ongoing_requests: int = 5
    max_queued_requests: int = -1
    startup_timeout_s: float = 600.0
    graceful_shutdown_timeout_s: float = 20.0
    max_constructor_failures: int = 3
    options: JsonDict = {}
    user_config: Any = None
    backpressure_status: int = 503
    retry_after_s: float | None = None
    idempotent: bool = False


class ApplicationSpec(Struct, frozen=True):
    """What the user wants of one application.

    Attributes:
        ingress: name of the deployment that gets the HTTP requests.
        route_prefix: its path prefix, None when it is not exposed.
        timeout_status: what an HTTP client hears when its deadline has passed; 0 is as the instance was told.
    """

    name: str
    route_prefix: str | None
    ingress: str
    deployments: tuple[DeploymentSpec, ...]
    code: CodeContext = CodeContext()
    timeout_status: int = 0


class ReplicaView(Struct, frozen=True):
    """One replica, as status shows it."""

    replica_id: str
    state: str
    pid: int | None
    version: str
    age_s: float


class DeploymentView(Struct, frozen=True):
    """One deployment, as status shows it; status and trigger are the reference's enum values."""

    name: str
    status: str
    status_trigger: str
    message: str
    target_num_replicas: int
    replica_states: dict[str, int]
    replicas: tuple[ReplicaView, ...]
    options: JsonDict


class ApplicationView(Struct, frozen=True):
    """One application, as status shows it; ``docs_path`` is where it documents itself, None for nowhere."""

    name: str
    status: str
    message: str
    route_prefix: str | None
    ingress: str
    last_deployed_time_s: float
    deployments: tuple[DeploymentView, ...]
    docs_path: str | None = None
