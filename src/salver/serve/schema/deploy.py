"""The config file, as models: what ``deploy`` and ``PUT /api/serve/applications/`` accept.

Fields are Ray Serve's. Those of a deployment are not listed here: they are ``DeploymentOptions``, once, and
``model_fields_set`` says which the file has set; the others keep the value that the code has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self, cast

from annotated_types import Ge, Le, Len
from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from salver.errors import ConfigurationError
from salver.records import JsonDict
from salver.serve.building.graph import check_app_name, check_route_prefix
from salver.serve.building.import_path import check_import_path
from salver.serve.config import (
    AutoscalingPolicy,
    ControllerOptions,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    TracingConfig,
    gRPCOptions,
)
from salver.serve.options import DeploymentKwargs, DeploymentOptions, RayActorOptions, RightRuntimeEnv
from salver.serve.validation import Allowed, Flag, JsonObject, Number, Options, OptionsError, Port, Problem, Text

RayActorOptionsSchema = RayActorOptions
gRPCOptionsSchema = gRPCOptions  # noqa: N816 - ray.serve's name


class HTTPOptionsSchema(HTTPOptions):
    """Where and how the HTTP ingress listens.

    The default of ``host`` is 127.0.0.1, as in code; Ray Serve's files mean 0.0.0.0, which is open to the network.
    """


def _without_defaults(schema: dict[str, Any]) -> None:
    """An option that a file leaves out keeps the code's value, which is not the default of the option."""
    for option in schema.get("properties", {}).values():
        option.pop("default", None)


class DeploymentSchema(DeploymentOptions):
    """Options of one deployment that win over those in the code."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)

    name: Annotated[  # type: ignore[assignment]  # required, and so not None, here
        str, Len(1), Allowed("the name of a deployment")
    ]

    def is_complete(self) -> bool:
        """See there."""
        return False

    def overrides(self) -> DeploymentKwargs:
        """What the file has set, for ``Deployment.options``."""
        names = self.model_fields_set - {"name"}
        return cast("DeploymentKwargs", {name: getattr(self, name) for name in names})


def _check(check: Any) -> AfterValidator:
    """A validator that says what ``check`` raises about a value."""

    def checked(value: Any) -> Any:
        try:
            check(value)
        except ConfigurationError as error:
            text = str(error)
            raise PydanticCustomError("predicate", "{text}", {"text": f"is wrong: {text}"}) from None
        return value

    return AfterValidator(checked)


_MAY_BE_NULL = frozenset({"runtime_env", "args", "deployments", "http_options", "grpc_options", "proxy_location"})


class _Section(Options):
    """A mapping of the file in which null is the same as nothing, where nothing else is meant.

    Attributes:
        _different: keys of which no two entries of a list may have the same value: list, key, default value. They
            are compared as they are in the file, so that this is told together with all that is wrong in the entries.
    """

    _different: ClassVar[tuple[tuple[str, str, str | None], ...]] = ()

    def __init__(self, /, **values: Any) -> None:
        repeated = [problem for each in self._different for problem in _repeated(values, *each)]
        try:
            super().__init__(**values)
        except OptionsError as error:
            raise OptionsError([*error.found, *repeated]) from None
        if repeated:
            raise OptionsError(repeated)

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = cast("dict[str, Any]", values)
        return {name: value for name, value in given.items() if value is not None or name not in _MAY_BE_NULL}


class ServeApplicationSchema(_Section):
    """One application.

    Attributes:
        name: its name.
        route_prefix: path prefix of its HTTP requests; null to expose it to handles only.
        import_path: where it is, ``module:attribute``: an application or a builder function.
        runtime_env: environment variables, folders and packages of its processes.
        host, port: have no effect; where requests are taken is said by ``http_options``.
        deployments: options of its deployments that win over those in the code.
        autoscaling_policy: decides on the numbers of replicas of all of its deployments together.
        args: arguments of the builder function.
        logging_config: of every deployment that has none of its own.
        external_scaler_enabled: its deployments may be scaled by the control API.
    """

    _different = (("deployments", "name", None),)

    name: Annotated[str, Allowed("a non-empty string without '#' and '/'"), _check(check_app_name)] = "default"
    route_prefix: Annotated[str | None, Allowed("a path like '/translate', or null"), _check(check_route_prefix)] = (
        "/"
    )
    import_path: Annotated[str, Allowed("an import path 'module:attribute'"), _check(check_import_path)]
    runtime_env: Annotated[JsonObject, RightRuntimeEnv] = Field(default_factory=dict[str, Any])
    host: Text = "127.0.0.1"
    port: Port = 8000
    deployments: list[DeploymentSchema] = Field(default_factory=list[DeploymentSchema])
    autoscaling_policy: AutoscalingPolicy | None = None
    args: JsonObject = Field(default_factory=dict[str, Any])
    logging_config: LoggingConfig | None = None
    external_scaler_enabled: Flag = False

    @model_validator(mode="after")
    def _check_scalers(self) -> Self:
        scaled = [place for place, each in enumerate(self.deployments) if each.scaling is not None]
        if self.external_scaler_enabled and scaled:
            rule = ".autoscaling_config: cannot be set together with external_scaler_enabled"
            raise OptionsError([Problem(("deployments", place), rule) for place in scaled])
        return self


class ServeDeploySchema(_Section):
    """The whole file.

    Attributes:
        proxy_location: on which machines proxies run; there is one.
        http_options: where and how the HTTP ingress listens; of the moment at which the instance starts.
        grpc_options: of the gRPC ingress.
        controller_options: of the controller process.
        logging_config: of every application that has none of its own.
        tracing_config: how requests are traced.
        applications: all that are to run; others that a file has deployed are deleted.
        target_capacity: how much of every number of replicas is wanted, in percent; null is all.
    """

    _different = (("applications", "name", "default"), ("applications", "route_prefix", "/"))

    proxy_location: Annotated[ProxyLocation, Allowed('"Disabled", "HeadOnly" or "EveryNode"')] = (
        ProxyLocation.EveryNode
    )
    http_options: HTTPOptionsSchema = HTTPOptionsSchema()
    grpc_options: gRPCOptionsSchema = gRPCOptionsSchema()
    controller_options: ControllerOptions | None = None
    logging_config: LoggingConfig | None = None
    tracing_config: TracingConfig | None = None
    applications: list[ServeApplicationSchema]
    target_capacity: Annotated[
        Annotated[Number, Ge(0), Le(100)] | None, Allowed("a percentage from 0 to 100, or null")
    ] = None

    def warnings(self) -> list[Problem]:
        """What the file sets without effect."""
        found = [
            Problem(("applications", place, name), ": has no effect; set it under http_options")
            for place, application in enumerate(self.applications)
            for name in sorted({"host", "port"} & application.model_fields_set)
        ]
        fields = type(self).model_fields
        found += [
            Problem((name,), ": is accepted but has no effect in this version")
            for name in ("grpc_options", "controller_options", "tracing_config")
            if getattr(self, name) not in (None, fields[name].default)
        ]
        found += [
            Problem(path, f'="{location.value}": is accepted but has no effect in this version; it is "EveryNode"')
            for path, location in (
                (("proxy_location",), self.proxy_location),
                (("http_options", "location"), self.http_options.location),
            )
            if location not in (None, ProxyLocation.EveryNode)
        ]
        return found


def _repeated(values: JsonDict, group: str, key: str, default: str | None) -> Iterator[Problem]:
    """What ``key`` says in more than one entry of the list ``group``; what has no value to compare is passed over."""
    first: dict[str, int] = {}
    entries = values.get(group)
    for place, entry in enumerate(cast("list[object]", entries) if isinstance(entries, list) else ()):
        of_file = isinstance(entry, dict)  # code may give a model instead
        value = cast("JsonDict", entry).get(key, default) if of_file else getattr(entry, key, None)
        if isinstance(value, str) and first.setdefault(value, place) != place:
            rule = f"={value!r}: must be different from that of {group}[{first[value]}]"
            yield Problem((group, place, key), rule)
