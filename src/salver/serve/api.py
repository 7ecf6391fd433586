"""Run, look at and end applications from Python."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from salver.controller.client import Control, ControlRefused, ControlUnreachable
from salver.data.context import replica_identity
from salver.data.http.options import ProxyOptions
from salver.engine.local.capacity import NOTHING_STATED
from salver.errors import ConfigurationError, ServeException, StartupError
from salver.records import ApplicationSpec
from salver.serve.building.application_settings import ApplicationSettings
from salver.serve.building.code_context import code_context
from salver.serve.building.graph import build_application
from salver.serve.building.resources import MachineOptions
from salver.serve.config import (
    ControllerOptions,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    TracingConfig,
    gRPCOptions,
)
from salver.serve.deployment import Application
from salver.serve.handle import DeploymentHandle
from salver.serve.local.mode import local_testing_is_forced
from salver.serve.session import (
    InstanceSession,
    Session,
    close_session,
    connected_session,
    current_session,
    join_session,
    launch_session,
)
from salver.serve.start_options import logging_config_of, options_of_start
from salver.serve.validation import OptionsError
from salver.telemetry.log_lines import DEFAULT_LOGGING

if TYPE_CHECKING:
    from salver.serve.local.client import LocalClient
    from salver.serve.schema.status import ServeStatus

_POLL_S = 30.0
_DELETE_WITHIN_S = 60.0


def start(
    proxy_location: ProxyLocation | str | None = None,
    http_options: HTTPOptions | dict[str, Any] | None = None,
    grpc_options: gRPCOptions | dict[str, Any] | None = None,
    logging_config: LoggingConfig | dict[str, Any] | None = None,
    tracing_config: TracingConfig | dict[str, Any] | None = None,
    controller_options: ControllerOptions | dict[str, Any] | None = None,
    *,
    proxies: int = 1,
    instance: str | None = None,
    num_cpus: float | None = None,
    num_gpus: int | None = None,
    memory: float | None = None,
    resources: dict[str, float] | None = None,
    **kwargs: Any,
) -> None:
    """Start an instance that lives as long as this process, or join a running one.

    Options are those of the moment at which an instance starts: where this process already has one, or joins one,
    they are ignored with a warning.

    Where the environment forces local testing (see ``run``), nothing is started or joined, and of the options only
    those of HTTP matter that say how requests are answered.

    Args:
        proxy_location: on which machines proxies run; there is one machine, so it has no effect.
        http_options: how the HTTP ingress listens; default ``HTTPOptions()``, which is 127.0.0.1:8000.
        logging_config: how its processes log; default text on a terminal and JSON elsewhere, from INFO on.
        grpc_options, tracing_config, controller_options: checked, without effect in this version.
        proxies: processes that share the HTTP port, 1 to 64, default 1.
        instance: name of a running instance to use instead.
        num_cpus, num_gpus, memory: what replicas can reserve, memory in bytes; default what the machine has.
        resources: amounts of resources of your own, by name.
        kwargs: ignored with a warning, as Ray Serve takes any.

    Raises:
        OptionsError: an option is wrong.
        ConfigurationError: the files for TLS are not in order.
        StartupError: the address cannot be had.
        ServeException: no instance of that name runs.
    """
    given = {
        "proxy_location": proxy_location,
        "http_options": http_options,
        "grpc_options": grpc_options,
        "logging_config": logging_config,
        "tracing_config": tracing_config,
        "controller_options": controller_options,
    }
    options = options_of_start(given, kwargs)
    if proxies not in range(1, 65):
        raise OptionsError([f"proxies={proxies!r:.80}: must be an integer from 1 to 64"])
    machine = MachineOptions(num_cpus=num_cpus, num_gpus=num_gpus, memory=memory, resources=resources or {})
    stated = machine.for_launcher()
    has_options = proxies != 1 or stated != NOTHING_STATED or any(value is not None for value in given.values())
    joined = current_session() is not None
    if not joined and local_testing_is_forced():
        _local_session(options.http.for_proxies())
        return
    if not joined and instance is not None:
        try:
            join_session(instance)
        except LookupError as error:
            raise ServeException(str(error)) from None
        joined = True
    if not joined:
        logging = options.logging or DEFAULT_LOGGING
        launch_session(options.http, proxies=proxies, stated=stated, logging=logging)
    elif has_options:
        import warnings

        warnings.warn("Serve is already running; the options of this start are ignored", UserWarning, stacklevel=2)


@dataclass(frozen=True)
class RunTarget:
    """One application of ``run_many``; the fields are arguments of ``run``."""

    target: Application
    name: str = "default"
    route_prefix: str | None = "/"
    logging_config: LoggingConfig | dict[str, Any] | None = None
    external_scaler_enabled: bool = False


def run(
    target: Application,
    blocking: bool = False,
    name: str = "default",
    route_prefix: str | None = "/",
    logging_config: LoggingConfig | dict[str, Any] | None = None,
    _local_testing_mode: bool = False,
    external_scaler_enabled: bool = False,
    controller_options: ControllerOptions | dict[str, Any] | None = None,
    *,
    local: bool = False,
) -> DeploymentHandle[Any]:
    """Deploy an application, wait until it runs, and return a handle to its ingress.

    Starts an instance on 127.0.0.1:8000 when this process has none. An application of the same name is updated in
    place: what did not change goes on running.

    Args:
        target: what ``.bind()`` returned.
        blocking: stay here until Ctrl-C, then end what this process started.
        name: of the application.
        route_prefix: path prefix of its HTTP requests; None to expose it to handles only.
        logging_config: how replicas of its deployments log that have no ``logging_config`` of their own.
        external_scaler_enabled: let the control API set the numbers of replicas; excludes autoscaling.
        controller_options: checked, without effect in this version.
        local: for tests: replicas are objects in this process, called by handles and by ``local_client``; no process
            is started, nothing listens. From then on, until ``shutdown``, everything that this process runs is local.
            ``_local_testing_mode`` is Ray Serve's name of it; SALVER_FORCE_LOCAL_TESTING_MODE=1, or
            RAY_SERVE_FORCE_LOCAL_TESTING_MODE=1, in the environment makes it so for all code.

    Raises:
        RuntimeError: a constructor failed; the message holds its traceback.
        ConfigurationError: a wrong name, prefix or option, or a prefix that another application has.
        SerializationError: an argument cannot be sent to a replica.
        ServeException: ``local``, but this process works with a real instance already.
    """
    if not isinstance(cast(object, target), Application):
        raise TypeError(f"serve.run takes the Application that `.bind()` returns, but got: {type(target).__name__}.")
    chosen = RunTarget(target, name, route_prefix, logging_config, external_scaler_enabled)
    is_local = local or _local_testing_mode
    (handle,) = run_many([chosen], blocking, controller_options=controller_options, local=is_local)
    return handle


def run_many(
    targets: Sequence[RunTarget],
    blocking: bool = False,
    wait_for_ingress_deployment_creation: bool = True,
    wait_for_applications_running: bool = True,
    _local_testing_mode: bool = False,
    controller_options: ControllerOptions | dict[str, Any] | None = None,
    *,
    local: bool = False,
) -> list[DeploymentHandle[Any]]:
    """Deploy several applications, which start at the same time; as ``run`` otherwise. Handles are in their order.

    All are built before any is deployed: what cannot be built changes nothing.

    Args:
        targets: the applications; their names differ.
        wait_for_ingress_deployment_creation: has no effect: there are handles as soon as an application is deployed.
        wait_for_applications_running: return when all run; else handles wait for what they call.

    Raises:
        As ``run``; ConfigurationError also for two of one name.
    """
    options_of_start({"controller_options": controller_options}, {})
    specs = _built(targets, in_this_process=_runs_in_this_process(local=local or _local_testing_mode))
    session = _session_to_run_in(local=local or _local_testing_mode)
    for spec in specs:
        _deploy(spec, session.control)
    if wait_for_applications_running:
        for spec in specs:
            _wait_until_running(session.control, spec.name)
    if replica_identity.get() is None:
        session.call_site()
    handles: list[DeploymentHandle[Any]] = [DeploymentHandle(spec.ingress, spec.name) for spec in specs]
    if blocking:
        _block()
    return handles


def _built(targets: Sequence[RunTarget], *, in_this_process: bool) -> list[ApplicationSpec]:
    names = [each.name for each in targets]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"two applications are named {name!r}: give each a name of its own")
    code = code_context()
    return [
        build_application(
            each.target,
            name=each.name,
            route_prefix=each.route_prefix,
            code=code,
            settings=ApplicationSettings(
                logging_config=logging_config_of(each.logging_config),
                external_scaler_enabled=each.external_scaler_enabled,
                in_this_process=in_this_process,
            ),
        )
        for each in targets
    ]


def _runs_in_this_process(*, local: bool) -> bool:
    session = current_session()
    return local or local_testing_is_forced() if session is None else not isinstance(session, InstanceSession)


def _session_to_run_in(*, local: bool) -> Session:
    session = current_session()
    if session is None:
        return _local_session() if local or local_testing_is_forced() else launch_session(HTTPOptions())
    if local and isinstance(session, InstanceSession):
        raise ServeException(
            f"This process works with the instance '{session.instance.name}' already, so nothing can be run with "
            "local=True: call serve.shutdown() first."
        )
    return session


def _local_session(options: ProxyOptions | None = None) -> Session:
    from salver.serve.local.session import start_local_session  # the whole control plane: replicas must not carry it

    return start_local_session(options)


def _deploy(spec: ApplicationSpec, control: Control) -> None:
    try:
        control.deploy(spec)
    except ControlRefused as error:
        raise ConfigurationError(str(error)) from None


def _wait_until_running(control: Control, name: str) -> None:
    while True:
        try:
            view = control.wait_settled(name, _POLL_S)
        except ControlUnreachable as error:
            raise StartupError(f"Salver's processes ended while application '{name}' was starting") from error
        if view is None:
            raise ServeException(f"Application '{name}' was deleted while it was starting.")
        if view.status == "RUNNING":
            return
        if view.status == "DEPLOY_FAILED":
            raise RuntimeError(f"Deploying application {name} failed: {view.message}")


def local_client(timeout_s: float = 60.0) -> LocalClient:
    """A client (HTTP, WebSockets) of the applications that this process runs with ``serve.run(app, local=True)``.

    Args:
        timeout_s: for one request, or one piece of an answer that is streamed, in seconds.

    Raises:
        ServeException: this process runs none.
    """
    from salver.serve.local.client import client_of_this_process

    return client_of_this_process(timeout_s)


def _block() -> None:
    try:
        while current_session() is not None:
            time.sleep(0.5)
    except KeyboardInterrupt:
        pass
    finally:
        close_session()


def status() -> ServeStatus:
    """The state of every application of this process's instance, or of the only one that runs."""
    from salver.serve.schema.status import serve_status  # models that only this needs

    return serve_status(connected_session().control.status())


def delete(name: str, _blocking: bool = True) -> None:
    """Delete an application: its requests finish, then its replicas end. Unknown names are fine.

    Raises:
        TimeoutError: it is not gone after 60 s.
    """
    wait_s = _DELETE_WITHIN_S if _blocking else 0.0
    if not connected_session().control.delete(name, wait_s) and _blocking:
        raise TimeoutError(f"Application '{name}' was not gone after {_DELETE_WITHIN_S:.0f} s.")


def shutdown() -> None:
    """End the instance that this process started or joined, with all its applications. May be called twice."""
    session = current_session()
    if session is not None:
        session.shutdown()
    close_session()


async def shutdown_async() -> None:
    """``shutdown`` for code on an event loop: the loop goes on while it waits."""
    await asyncio.to_thread(shutdown)


def get_app_handle(name: str) -> DeploymentHandle[Any]:
    """A handle to the ingress of an application. Raises ServeException when there is none of that name."""
    session = connected_session()
    for view in session.control.status().applications:
        if view.name == name and view.status != "DELETING":
            return DeploymentHandle(view.ingress, name)
    raise ServeException(f"Application '{name}' does not exist.")


def get_deployment_handle(deployment_name: str, app_name: str | None = None) -> DeploymentHandle[Any]:
    """A handle to a deployment.

    Args:
        app_name: its application; default, inside a replica, the replica's own.

    Raises:
        ServeException: no application was named outside a replica, or there is no such deployment.
    """
    if app_name is None:
        identity = replica_identity.get()
        if identity is None:
            raise ServeException(
                "Please specify an application name when getting a deployment handle outside of a deployment."
            )
        app_name = identity.app_name
    for view in connected_session().control.status().applications:
        if view.name == app_name and any(each.name == deployment_name for each in view.deployments):
            return DeploymentHandle(deployment_name, app_name)
    raise ServeException(f"Deployment '{deployment_name}' does not exist in application '{app_name}'.")
