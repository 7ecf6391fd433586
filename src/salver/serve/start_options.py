"""What ``serve.start`` was given: checked all of it, told about what has no effect, reduced to what has."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from salver.records import LoggingSpec
from salver.serve.building.logging_spec import logging_spec
from salver.serve.config import (
    ControllerOptions,
    HTTPOptions,
    LoggingConfig,
    ProxyLocation,
    TracingConfig,
    gRPCOptions,
)
from salver.serve.validation import Options, OptionsError, did_you_mean

OptionsT = TypeVar("OptionsT", bound=Options)

_MODELS: dict[str, type[Options]] = {
    "http_options": HTTPOptions,
    "grpc_options": gRPCOptions,
    "logging_config": LoggingConfig,
    "tracing_config": TracingConfig,
    "controller_options": ControllerOptions,
}
_WITH_EFFECT = frozenset({"http_options", "logging_config"})
_LOCATIONS = ", ".join(f'"{location}"' for location in ProxyLocation)
_warned: set[str] = set()
_USERS_LINE = 4  # above `serve.start`, which calls us


@dataclass(frozen=True, slots=True)
class StartOptions:
    """What has an effect; ``logging`` is None for the defaults."""

    http: HTTPOptions
    logging: LoggingSpec | None


def options_of_start(given: Mapping[str, Any], unknown: Mapping[str, Any]) -> StartOptions:
    """What to start an instance with.

    Args:
        given: the named parameters of ``serve.start`` that Ray Serve has, too; None is not given.
        unknown: its other keyword arguments. Ray Serve takes any, and so do we.

    Warns once per process of each that is set and has no effect.

    Raises:
        OptionsError: names each option that is wrong.
    """
    models = {name: _as_model(name, given.get(name), model) for name, model in _MODELS.items()}
    http = cast(HTTPOptions, models["http_options"])
    location = _location(given.get("proxy_location")) or http.location
    without_effect = [name for name, model in models.items() if name not in _WITH_EFFECT and model != type(model)()]
    if location is ProxyLocation.Disabled:
        without_effect.append('proxy_location="Disabled"')
    for name in without_effect:
        _warn_once(name, f"{name!r} of serve.start is accepted but has no effect in this version")
    for name in unknown:
        text = f"serve.start ignores {name!r}: there is no such option.{did_you_mean(name, [*given, 'proxies'])}"
        _warn_once(name, text)
    config = cast(LoggingConfig, models["logging_config"])
    return StartOptions(http, logging_spec(config) if given.get("logging_config") is not None else None)


def logging_config_of(value: LoggingConfig | dict[str, Any] | None) -> LoggingConfig | None:
    """A ``logging_config`` argument as the model. Raises OptionsError."""
    return None if value is None else _as_model("logging_config", value, LoggingConfig)


def _as_model(name: str, value: object, model: type[OptionsT]) -> OptionsT:
    if value is None:
        return model()
    if isinstance(value, model):
        return value
    if not isinstance(value, dict):
        raise OptionsError([f"{name}={value!r:.80}: must be a {model.__name__}, a dict of its fields, or None"])
    try:
        return model(**cast("dict[str, Any]", value))
    except OptionsError as error:
        raise OptionsError([f"{name}.{problem}" for problem in error.problems]) from None


def _location(value: object) -> ProxyLocation | None:
    try:
        return None if value is None else ProxyLocation(cast(str, value))
    except ValueError:
        raise OptionsError([f"proxy_location={value!r:.80}: must be {_LOCATIONS} or None"]) from None


def _warn_once(key: str, text: str) -> None:
    if key not in _warned:
        _warned.add(key)
        warnings.warn(text, UserWarning, stacklevel=_USERS_LINE)
