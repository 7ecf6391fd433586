"""Application builders: functions that make an application of the arguments given at ``serve run``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast, get_type_hints

from pydantic import BaseModel, ValidationError

from salver.serve.deployment import Application, Deployment
from salver.serve.validation import OptionsError, find_problems


class ArgumentsError(OptionsError):
    """The ``key=value`` arguments do not fit the application builder, or there is no builder to take them."""


def build_from_target(target: object, args: Mapping[str, Any]) -> Application:
    """The application that ``target`` is, or that ``target``, a builder function, makes of ``args``.

    Errors that a builder raises itself come out as they are.

    Raises:
        TypeError: neither an application nor a builder, or the builder does not give an application.
        ArgumentsError: the arguments do not fit (a ``ValueError``).
    """
    if isinstance(target, Application):
        if args:
            raise ArgumentsError(
                ["Arguments can only be passed to an application builder function, not an already built application."]
            )
        return target
    if not inspect.isroutine(target):
        raise TypeError(
            "Expected a built Serve application or an application builder function but got: "
            f"{type(target)}.{_hint(target)}"
        )
    builder = cast("Callable[[Any], object]", target)
    application = builder(_builder_argument(builder, args))
    if not isinstance(application, Application):
        raise TypeError(
            "Application builder functions must return an `Application` returned `from `Deployment.bind()`, "
            f"but got: {type(application)}."
        )
    return application


def _hint(target: object) -> str:
    """What to do about an object that is nearly an application."""
    if isinstance(target, Deployment):
        return f" Bind it first: {cast('Deployment[Any]', target).name}.bind()."
    if type(target).__module__.startswith("ray."):
        return " It was made by Ray, which is installed here: with --compat, `import ray` means Salver."
    return ""


def _builder_argument(builder: Callable[[Any], object], args: Mapping[str, Any]) -> dict[str, Any] | BaseModel:
    """``args`` as the type of the builder's one parameter asks for them."""
    parameters = list(inspect.signature(builder).parameters.values())
    if len(parameters) != 1:
        raise TypeError(
            "Application builder functions should take exactly one parameter, "
            "a dictionary containing the passed arguments."
        )
    annotation: Any = parameters[0].annotation
    if isinstance(annotation, str):
        annotation = get_type_hints(builder).get(parameters[0].name)
    if not (inspect.isclass(annotation) and issubclass(annotation, BaseModel)):
        return dict(args)
    try:
        return annotation.model_validate(dict(args))
    except ValidationError as error:
        problems = find_problems(error, annotation.model_fields)
        heading = f"wrong arguments for the application builder {builder.__name__!r}:"
        raise ArgumentsError(problems, heading) from None


def parse_app_args(arguments: Iterable[str]) -> dict[str, str]:
    """``["k=v", …]`` of a command line as a dict; values stay strings.

    Raises:
        ArgumentsError: one is not of that form (a ``ValueError``).
    """
    parsed: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not key or not equals:
            raise ArgumentsError([f"Invalid application argument '{argument}', must be of the form '<key>=<val>'."])
        parsed[key] = value
    return parsed
