"""Application builders and their arguments."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from salver.errors import ConfigurationError
from salver.serve.building.builder import build_from_target, parse_app_args
from salver.serve.deployment import Application, deployment


@deployment
class Model:
    def __init__(self, settings: object = None) -> None:
        self.settings = settings


class Settings(BaseModel):
    path: str
    size: int = 3

    @field_validator("size")
    @classmethod
    def _even(cls, size: int) -> int:
        if size % 2:
            raise ValueError("must be even")
        return size


def built_with(target: object, args: dict[str, Any]) -> object:
    (argument,) = build_from_target(target, args).deployment.init_args
    return argument


def test_an_application_is_taken_as_it_is() -> None:
    application = Model.bind()
    assert build_from_target(application, {}) is application


def test_a_builder_gets_a_dict() -> None:
    def plain(args) -> Application:  # type: ignore[no-untyped-def]
        return Model.bind(args)

    def annotated(args: dict[str, str]) -> Application:
        return Model.bind(args)

    assert built_with(plain, {"path": "p"}) == {"path": "p"}
    assert built_with(annotated, {"path": "p"}) == {"path": "p"}
    assert built_with(plain, {}) == {}


def test_a_builder_may_ask_for_a_pydantic_model() -> None:
    def typed(settings: Settings) -> Application:
        return Model.bind(settings)

    assert built_with(typed, {"path": "p", "size": "4"}) == Settings(path="p", size=4)


def test_arguments_that_do_not_fit_the_model() -> None:
    def build(settings: Settings) -> Application:
        return Model.bind(settings)

    with pytest.raises(ConfigurationError) as caught:
        build_from_target(build, {"size": "5"})
    assert str(caught.value) == (
        "wrong arguments for the application builder 'build':\npath: is required\nsize='5': must be even"
    )


def no_parameter() -> Application:
    return Model.bind()


def two_parameters(args: dict[str, str], more: int) -> Application:
    return Model.bind()


def gives_a_number(args: dict[str, str]) -> int:
    return 3


ONE_PARAMETER = (
    "Application builder functions should take exactly one parameter, a dictionary containing the passed arguments."
)
NOT_A_TARGET = "Expected a built Serve application or an application builder function but got: "
NOT_AN_APPLICATION = (
    "Application builder functions must return an `Application` returned `from `Deployment.bind()`, "
    "but got: <class 'int'>."
)
NO_ARGUMENTS = "Arguments can only be passed to an application builder function, not an already built application."
UNBOUND = "<class 'salver.serve.deployment.Deployment'>. Bind it first: Model.bind()."
REFUSED: list[tuple[object, dict[str, str], type[Exception], str]] = [
    (no_parameter, {}, TypeError, ONE_PARAMETER),
    (two_parameters, {}, TypeError, ONE_PARAMETER),
    (gives_a_number, {}, TypeError, NOT_AN_APPLICATION),
    (Model.bind(), {"k": "v"}, ValueError, NO_ARGUMENTS),
    (5, {}, TypeError, f"{NOT_A_TARGET}<class 'int'>."),
    (Model, {}, TypeError, f"{NOT_A_TARGET}{UNBOUND}"),
]


@pytest.mark.parametrize(("target", "args", "kind", "message"), REFUSED)
def test_refused(target: object, args: dict[str, str], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        build_from_target(target, args)


def test_errors_of_the_builder_come_out_as_they_are() -> None:
    def build(args: dict[str, str]) -> Application:
        return Model.bind(args["path"])

    with pytest.raises(KeyError, match="path"):
        build_from_target(build, {})


def test_command_line_arguments() -> None:
    assert parse_app_args([]) == {}
    assert parse_app_args(["a=1", "b=", "c=x=y", "a=2"]) == {"a": "2", "b": "", "c": "x=y"}


@pytest.mark.parametrize("argument", ["key", "=value", ""])
def test_malformed_command_line_arguments(argument: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_app_args(["a=1", argument])
    assert str(caught.value) == f"Invalid application argument '{argument}', must be of the form '<key>=<val>'."


def test_an_application_of_rays_own_is_told_from_ours() -> None:
    """Where Ray is installed, `from ray import serve` is Ray's: its objects look right and are not."""
    application = type("Application", (), {"__module__": "ray.serve.deployment"})()
    with pytest.raises(TypeError, match=r"made by Ray.*--compat"):
        build_from_target(application, {})
