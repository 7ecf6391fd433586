"""The decorator, deployments and bind."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from salver.serve.config import BackpressureConfig
from salver.serve.deployment import Application, Deployment, deployment
from salver.serve.options import DeploymentOptions
from salver.wire.payload import dump_definition, load_definition


class Model:
    def __init__(self, path: str, *, scale: float = 1.0) -> None:
        self.path = path
        self.scale = scale


def answer(request: str) -> str:
    return request


def test_bare_and_with_options_on_classes_and_functions() -> None:
    assert deployment(Model).func_or_class is Model
    assert deployment(num_replicas=2)(Model).num_replicas == 2
    assert deployment(answer).name == "answer"
    assert deployment(max_ongoing_requests=2)(answer).max_ongoing_requests == 2
    assert deployment(Model, name="other").name == "other"


@pytest.mark.parametrize("target", [5, "Model", Model("p"), deployment(Model)])
def test_only_classes_and_functions_are_decorated(target: Any) -> None:
    with pytest.raises(TypeError, match=r"@serve\.deployment must be applied to a class or function, not to "):
        deployment()(target)


def test_properties() -> None:
    made = deployment(
        name="m",
        num_replicas=3,
        max_ongoing_requests=7,
        max_queued_requests=9,
        ray_actor_options={"num_gpus": 0.5},
    )(Model)
    assert made.name == "m"
    assert made.version is None
    assert made.num_replicas == 3
    assert made.user_config is None
    assert made.max_ongoing_requests == 7
    assert made.max_queued_requests == 9
    assert made.backpressure_config == BackpressureConfig()
    assert made.ray_actor_options == {"num_cpus": 1, "num_gpus": 0.5}
    assert made.init_args == ()
    assert made.init_kwargs == {}
    assert made.logging_config is None
    assert repr(made) == "Deployment(name='m')"


def test_options_give_a_copy_and_keep_the_rest() -> None:
    first = deployment(num_replicas=2, max_ongoing_requests=7)(Model)
    second = first.options(num_replicas=3, name="second")
    assert (first.name, first.num_replicas, first.max_ongoing_requests) == ("Model", 2, 7)
    assert (second.name, second.num_replicas, second.max_ongoing_requests) == ("second", 3, 7)
    assert second.func_or_class is Model


def test_bind_stores_arguments_and_constructs_nothing() -> None:
    class Fails:
        def __init__(self, *args: int, **kwargs: int) -> None:
            raise AssertionError

    application = deployment(Fails).bind(1, 2, x=3)
    assert isinstance(application, Application)
    assert application.deployment.init_args == (1, 2)
    assert application.deployment.init_kwargs == {"x": 3}
    assert repr(application) == "Application('Fails')"


def test_every_bind_is_another_application() -> None:
    made = deployment(Model)
    assert made.bind("p") is not made.bind("p")
    assert made.bind("p") != made.bind("p")


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ((), {}, "missing a required argument: 'path'"),
        (("p", 2.0), {}, "too many positional arguments"),
        (("p",), {"scael": 2.0}, "got an unexpected keyword argument 'scael'"),
    ],
)
def test_arguments_must_fit_the_constructor(args: tuple[Any, ...], kwargs: dict[str, Any], problem: str) -> None:
    with pytest.raises(TypeError) as caught:
        deployment(name="m")(Model).bind(*args, **kwargs)
    assert str(caught.value) == (f"deployment 'm': bind(): {problem}; the constructor is Model(path, *, scale=1.0)")


def test_a_class_without_constructor_takes_no_arguments() -> None:
    class Plain:
        pass

    deployment(Plain).bind()
    with pytest.raises(TypeError, match=r"deployment 'Plain': bind\(\): too many positional arguments"):
        deployment(Plain).bind(1)


def test_async_constructors_are_checked_too() -> None:
    class Slow:
        async def __init__(self, size: int) -> None: ...  # type: ignore[misc]

    deployment(Slow).bind(3)
    with pytest.raises(TypeError, match="missing a required argument: 'size'"):
        deployment(Slow).bind()


def test_arguments_of_a_class_written_in_c_are_not_checked() -> None:
    assert deployment(dict).bind(a=1).deployment.init_kwargs == {"a": 1}


def test_functions_take_no_arguments() -> None:
    deployment(answer).bind()
    with pytest.raises(ValueError, match=r"^init_args not supported for function deployments\.$"):
        deployment(answer).bind("x")


@pytest.mark.parametrize(("args", "kwargs"), [((deployment(answer),), {}), ((), {"path": deployment(answer)})])
def test_an_unbound_deployment_as_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError) as caught:
        deployment(Model).bind(*args, **kwargs)
    assert str(caught.value) == ("deployment 'Model': argument answer is a Deployment; bind it first: answer.bind()")


def test_a_deployment_is_not_a_class() -> None:
    made = deployment(Model)
    with pytest.raises(RuntimeError, match=r"^Deployments cannot be constructed directly\. Use `Model\.bind\("):
        made("p")
    with pytest.raises(TypeError, match=r"inherit from `Model\.func_or_class`"):

        class Child(made):  # type: ignore[misc,valid-type]
            pass


def test_deployments_survive_pickling() -> None:
    made = deployment(num_replicas=2)(Model)
    copy: Deployment[Any] = load_definition(dump_definition(made))
    assert (copy.name, copy.num_replicas, copy.func_or_class) == ("Model", 2, Model)
    assert copy.all_options.model_fields_set == {"num_replicas"}


@pytest.mark.parametrize("function", [deployment, Deployment.options])
def test_help_lists_the_options(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    keyword_only = {p.name: p.default for p in parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert keyword_only == {name: field.default for name, field in DeploymentOptions.model_fields.items()}
