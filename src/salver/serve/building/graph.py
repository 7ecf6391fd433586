"""From a bound application to the record that the controller gets.

The graph is found by pickling: each deployment's class and arguments are pickled once, and every application
that the pickler meets, however deep in lists, dicts or objects of the user's, is built first, then replaced
by a handle to its deployment. So the walk is depth first, and names (``Model``, ``Model_1``) are given in the
order in which deployments are finished, as users of ``ray.serve`` expect them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from msgspec.structs import replace

from salver.errors import ConfigurationError, SerializationError, placed
from salver.records import ApplicationSpec, CodeContext, DeploymentId, DeploymentSpec
from salver.serve.building.application_settings import ApplicationSettings
from salver.serve.building.autoscaling_spec import policy_spec
from salver.serve.building.code_context import COMPAT_SETUP
from salver.serve.building.default_runtime_env import under_default_runtime_env
from salver.serve.building.deployment_spec import deployment_spec
from salver.serve.building.fingerprint import code_fingerprint
from salver.serve.building.sources import with_sources
from salver.serve.deployment import Application, Deployment, constructor_signature
from salver.serve.handle import DeploymentHandle
from salver.serve.validation import OptionsError, Problem, did_you_mean
from salver.wire.payload import dump_definition

logger = logging.getLogger("salver.serve")

MAX_DEPTH = 32
"""How deep binds may be nested; each level is a pickler within a pickler, and Python's stack is finite."""

TIMEOUT_STATUS_OF_RAY = 408
"""What clients of such applications expect when their time is up."""


class DefinitionError(SerializationError):
    """The code or an argument of a deployment cannot be pickled; the message says which one."""


class OverridesError(OptionsError):
    """Options from outside the code do not fit; the place of each begins with the name of a deployment."""

    def sentence(self, problem: Problem) -> str:
        """See there."""
        name, *option = problem.at
        if option == ["name"]:
            return f"deployment {problem.rule.removeprefix('=')}"
        return f"deployment {name!r}: {problem._replace(at=tuple(option))}"


def build_application(
    target: Application,
    *,
    name: str,
    route_prefix: str | None,
    code: CodeContext,
    settings: ApplicationSettings | None = None,
) -> ApplicationSpec:
    """Turn ``target`` and all applications in its arguments into one record; the root is the ingress.

    Args:
        name: name of the application.
        route_prefix: its path prefix; None does not expose it over HTTP.
        code: where replicas find the user's modules.
        settings: what else it is deployed with.

    Raises:
        ConfigurationError: a wrong name, prefix or combination of options (a ``ValueError``).
        SerializationError: code or an argument cannot be pickled.
    """
    check_app_name(name)
    check_route_prefix(route_prefix)
    code, settings = under_default_runtime_env(code, settings or ApplicationSettings())
    graph = _Graph(name)
    ingress = graph.add(target)
    _check_single_asgi_ingress(name, [node.deployment for node in graph.nodes])
    with placed("deployments"):
        deployments = _overridden(graph.nodes, settings)
    with placed("autoscaling_policy"):
        policy = None if settings.autoscaling_policy is None else policy_spec(settings.autoscaling_policy, code)
    fingerprint = code_fingerprint(code, settings.base)
    return ApplicationSpec(
        name=name,
        route_prefix=route_prefix,
        ingress=ingress.deployment_name,
        deployments=tuple(
            _spec_of(node, deployments[node.id.name], code, fingerprint, settings) for node in graph.nodes
        ),
        code=with_sources(code, settings.base),
        timeout_status=TIMEOUT_STATUS_OF_RAY if COMPAT_SETUP in code.setup else 0,
        config=settings.config,
        external_scaler=settings.external_scaler_enabled,
        policy=policy,
    )


def _spec_of(
    node: _Node, deployment: Deployment[Any], code: CodeContext, fingerprint: str, settings: ApplicationSettings
) -> DeploymentSpec:
    with placed("deployments", node.id.name):
        spec = deployment_spec(node.id, deployment, node.definition, code, fingerprint, settings)
    return replace(spec, calls=node.calls)


def named_deployments(target: Application, app_name: str) -> dict[str, Deployment[Any]]:
    """The deployments of ``target`` by the names that they get in an application. Raises SerializationError."""
    graph = _Graph(app_name)
    graph.add(target)
    return {node.id.name: node.deployment for node in graph.nodes}


@dataclass(frozen=True, slots=True)
class _Node:
    id: DeploymentId
    deployment: Deployment[Any]
    definition: bytes
    calls: tuple[DeploymentId, ...]


class _Graph:
    """The walk: ``nodes`` are the finished deployments, those that others refer to first."""

    def __init__(self, app_name: str) -> None:
        self.nodes: list[_Node] = []
        self._app_name = app_name
        self._handles: dict[Application, DeploymentHandle[Any]] = {}
        self._unfinished: list[Application] = []
        self._calls: dict[Application, dict[DeploymentId, None]] = {}
        """The deployments that each one was given handles to, in the order in which they were met."""

    def add(self, application: Application) -> DeploymentHandle[Any]:
        """Build ``application`` unless that is done or under way, and give the handle that stands for it.

        Under way it can only be when code refers to an application as a global and is pickled by value.
        """
        if application in self._handles:
            return self._handles[application]
        if application in self._unfinished:
            return self._name(application)
        if len(self._unfinished) == MAX_DEPTH:
            raise DefinitionError(
                f"application {self._app_name!r}: deployments are nested more than {MAX_DEPTH} deep"
            )
        self._unfinished.append(application)
        try:
            definition = self._definition(application.deployment)
        finally:
            self._unfinished.pop()
        handle = self._handles.get(application) or self._name(application)
        node_id = DeploymentId(self._app_name, handle.deployment_name)
        calls = tuple(self._calls.pop(application, ()))
        self.nodes.append(_Node(node_id, application.deployment, definition, calls))
        return handle

    def _name(self, application: Application) -> DeploymentHandle[Any]:
        wanted = name = application.deployment.name
        taken = {handle.deployment_name for handle in self._handles.values()}
        number = 0
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        if number:
            logger.warning(
                "application '%s' has several deployments named '%s'; one of them is now '%s'",
                self._app_name,
                wanted,
                name,
            )
        self._handles[application] = DeploymentHandle(name, self._app_name)
        return self._handles[application]

    def _definition(self, deployment: Deployment[Any]) -> bytes:
        definition = (deployment.func_or_class, deployment.init_args, deployment.init_kwargs)
        try:
            return dump_definition(definition, self._replace)
        except DefinitionError:  # of a deployment further down
            raise
        except SerializationError as error:
            raise self._explain(deployment, error) from error

    def _replace(self, value: object) -> object:
        if isinstance(value, Application):
            value = self.add(value)
        if isinstance(value, DeploymentHandle):
            handle = cast("DeploymentHandle[Any]", value)
            callee = DeploymentId(handle.app_name, handle.deployment_name)
            self._calls.setdefault(self._unfinished[-1], {})[callee] = None
            return handle
        return value

    def _explain(self, deployment: Deployment[Any], error: SerializationError) -> DefinitionError:
        for label, value in _labelled_arguments(deployment).items():
            try:
                dump_definition(value, self._replace)
            except SerializationError as part:
                problem = str(part)  # "cannot be pickled: …", after the path within the argument, if any
                space = "" if problem.startswith(("[", ".")) else " "
                return DefinitionError(f"deployment {deployment.name!r}: argument {label}{space}{problem}")
        return DefinitionError(
            f"deployment {deployment.name!r}: its code cannot be pickled: {error.__cause__}. Code outside of "
            "an importable module is pickled with the globals it uses: create such objects in the "
            "constructor, or move the code to a module."
        )


def _labelled_arguments(deployment: Deployment[Any]) -> Mapping[str, object]:
    args, kwargs = deployment.init_args, deployment.init_kwargs
    signature = constructor_signature(deployment.func_or_class)
    if signature is None:
        named = {f"number {position}": value for position, value in enumerate(args, start=1)}
        return named | {repr(name): value for name, value in kwargs.items()}
    arguments = signature.bind(*args, **kwargs).arguments
    return {repr(name): value for name, value in arguments.items()}


def _overridden(nodes: list[_Node], settings: ApplicationSettings) -> dict[str, Deployment[Any]]:
    """The deployments by name, with the options that the settings have for them."""
    deployments = {node.id.name: node.deployment for node in nodes}
    there = ", ".join(sorted(deployments))
    problems: list[Problem] = []
    for name, options in settings.overrides.items():
        if name not in deployments:
            near = did_you_mean(name, deployments)
            rule = f"={name!r}: the application has none of that name; it has {there}.{near}"
            problems.append(Problem((name, "name"), rule))
            continue
        try:
            deployments[name] = deployments[name].options(**options)
        except OptionsError as error:
            problems += [each.below((name,)) for each in error.found]
    if problems:
        raise OverridesError(problems)
    return deployments


def check_app_name(name: str) -> None:
    """Raises ConfigurationError unless ``name`` can name an application."""
    if not name or "#" in name or "/" in name:
        raise ConfigurationError(f"application name {name!r}: must not be empty or contain '#' or '/'")


def check_route_prefix(route_prefix: str | None) -> None:
    """Raises ConfigurationError unless requests can be routed by ``route_prefix``; None is not routed to."""
    if route_prefix is None:
        return
    if not route_prefix.startswith("/"):
        raise ConfigurationError(f"route_prefix={route_prefix!r}: must start with '/'")
    if route_prefix != "/" and route_prefix.endswith("/"):
        raise ConfigurationError(f"route_prefix={route_prefix!r}: must not end with '/', unless it is '/'")
    if "{" in route_prefix or "}" in route_prefix:
        raise ConfigurationError(f"route_prefix={route_prefix!r}: must not contain '{{' or '}}'")


def _check_single_asgi_ingress(app_name: str, deployments: list[Deployment[Any]]) -> None:
    marked = [d for d in deployments if getattr(d.func_or_class, "__serve_is_asgi_ingress__", False)]
    if len(marked) > 1:
        raise ConfigurationError(
            f'Found multiple FastAPI deployments in application "{app_name}". Please only include one '
            "deployment with @serve.ingress in your application to avoid this issue."
        )
