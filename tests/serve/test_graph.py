"""From bound applications to the record of the controller: names, handles, versions, errors."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace

from salver.errors import ConfigurationError, SerializationError
from salver.records import ApplicationSpec, CodeContext, DeploymentId
from salver.serve.building import graph
from salver.serve.building.fingerprint import code_fingerprint
from salver.serve.building.graph import build_application
from salver.serve.deployment import Application, deployment
from salver.serve.handle import DeploymentHandle
from salver.wire.payload import load_definition

pytestmark = pytest.mark.filterwarnings("ignore:option .* is accepted but has no effect:UserWarning")


class Anything:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs

    def reconfigure(self, user_config: object) -> None: ...


class Box:
    """An object of the user's that holds something."""

    def __init__(self, content: object) -> None:
        self.content = content


Root = deployment(name="Root")(Anything)
Leaf = deployment(name="Leaf")(Anything)


def build(target: Application, name: str = "app", route_prefix: str | None = "/") -> ApplicationSpec:
    return build_application(target, name=name, route_prefix=route_prefix, code=CodeContext(cwd="/somewhere"))


def names(spec: ApplicationSpec) -> list[str]:
    return [one.id.name for one in spec.deployments]


def arguments(spec: ApplicationSpec, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    (definition,) = [one.definition for one in spec.deployments if one.id.name == name]
    _, args, kwargs = load_definition(definition)
    return args, kwargs


def test_one_deployment() -> None:
    spec = build(Root.options(num_replicas=2, max_queued_requests=7).bind(1, x=[2]), "my app", "/v1")
    assert (spec.name, spec.route_prefix, spec.ingress) == ("my app", "/v1", "Root")
    assert replace(spec.code, sources=b"") == CodeContext(cwd="/somewhere")
    (one,) = spec.deployments
    assert one.id == DeploymentId("my app", "Root")
    assert load_definition(one.definition) == (Anything, (1,), {"x": [2]})
    assert (one.num_replicas, one.max_ongoing_requests, one.max_queued_requests) == (2, 5, 7)
    assert (one.startup_timeout_s, one.graceful_shutdown_timeout_s) == (600.0, 20.0)
    assert one.options["name"] == "Root"
    assert one.options["num_replicas"] == 2
    assert one.options["ray_actor_options"] == {}  # what is not stated is not reserved


def test_a_function() -> None:
    @deployment
    def answer(request: int) -> int:
        return request + 1

    (one,) = build(answer.bind()).deployments
    function, args, kwargs = load_definition(one.definition)
    assert (function(1), args, kwargs) == (2, (), {})


def test_applications_anywhere_in_the_arguments_become_handles() -> None:
    places = {"list": [Leaf.bind()], "nested": {"deep": (Box(Leaf.bind()),)}, "set": {Leaf.bind()}}
    spec = build(Root.bind(Leaf.bind(), **places))
    args, kwargs = arguments(spec, "Root")
    handles = [args[0], kwargs["list"][0], kwargs["nested"]["deep"][0].content, *kwargs["set"]]
    assert [(handle.deployment_name, handle.app_name) for handle in handles] == [
        ("Leaf", "app"),
        ("Leaf_1", "app"),
        ("Leaf_2", "app"),
        ("Leaf_3", "app"),
    ]
    assert names(spec) == ["Leaf", "Leaf_1", "Leaf_2", "Leaf_3", "Root"]


def test_the_same_application_twice_is_one_deployment() -> None:
    shared = Leaf.bind()
    spec = build(Root.bind(shared, Leaf.options(name="Other").bind(shared), again=shared))
    assert names(spec) == ["Leaf", "Other", "Root"]
    args, kwargs = arguments(spec, "Root")
    assert [args[0].deployment_name, args[1].deployment_name] == ["Leaf", "Other"]
    assert kwargs["again"] is args[0]


def test_equal_names_are_numbered_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "salver.serve"):
        spec = build(Root.bind(Leaf.bind(), Leaf.bind()))
    assert names(spec) == ["Leaf", "Leaf_1", "Root"]
    assert [record.getMessage() for record in caplog.records] == [
        "application 'app' has several deployments named 'Leaf'; one of them is now 'Leaf_1'"
    ]
    assert spec.deployments[1].options["name"] == "Leaf_1"


def test_names_are_given_depth_first_and_the_root_is_last() -> None:
    spec = build(Leaf.bind(Root.bind(Leaf.bind("inner")), Leaf.bind("outer")))
    assert names(spec) == ["Leaf", "Root", "Leaf_1", "Leaf_2"]
    assert spec.ingress == "Leaf_2"
    assert arguments(spec, "Leaf") == (("inner",), {})
    assert arguments(spec, "Leaf_1") == (("outer",), {})


def chain(depth: int) -> Application:
    application = Leaf.bind()
    for _ in range(depth - 1):
        application = Leaf.bind(application)
    return application


def test_nesting_is_bounded() -> None:
    assert len(build(chain(graph.MAX_DEPTH)).deployments) == graph.MAX_DEPTH
    with pytest.raises(SerializationError) as caught:
        build(chain(graph.MAX_DEPTH + 1))
    assert str(caught.value) == "application 'app': deployments are nested more than 32 deep"


def test_code_that_refers_to_its_own_application() -> None:
    class Looped:  # local, so pickled by value with what it refers to
        def __call__(self) -> object:
            return application

    application = deployment(Looped).bind()
    spec = build(application)
    assert names(spec) == ["Looped"]
    looped, _, _ = load_definition(spec.deployments[0].definition)
    assert looped()().deployment_name == "Looped"


class Model:
    def __init__(self, path: str = "", lock: object = None, *more: object, extra: object = None) -> None: ...


LOCK = "_thread.lock (TypeError: cannot pickle '_thread.lock' object)"


NESTED = {"a": [Box(threading.Lock())]}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (("p", threading.Lock()), {}, f"argument 'lock' cannot be pickled: {LOCK}"),
        ((), {"extra": threading.Lock()}, f"argument 'extra' cannot be pickled: {LOCK}"),
        (
            (),
            {"lock": NESTED},
            f"argument 'lock'['a'][0].content cannot be pickled: {LOCK}",
        ),
        (("p", 0, 1, threading.Lock()), {}, f"argument 'more'[1] cannot be pickled: {LOCK}"),
    ],
)
def test_arguments_that_cannot_be_pickled(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    failing = deployment(Model).bind(*args, **kwargs)
    for target in (failing, Root.bind(Leaf.bind([failing]))):
        with pytest.raises(SerializationError) as caught:
            build(target)
        assert str(caught.value) == f"deployment 'Model': {message}"


def test_an_unnamed_argument_that_cannot_be_pickled() -> None:
    with pytest.raises(SerializationError) as caught:
        build(deployment(dict).bind([1], [threading.Lock()]))
    assert str(caught.value) == f"deployment 'dict': argument number 2[0] cannot be pickled: {LOCK}"


def test_code_that_cannot_be_pickled() -> None:
    lock = threading.Lock()

    class Locked:
        def __call__(self) -> None:
            lock.acquire()

    with pytest.raises(SerializationError) as caught:
        build(deployment(Locked).bind())
    assert str(caught.value).startswith(
        "deployment 'Locked': its code cannot be pickled: cannot pickle '_thread.lock' object. Code outside"
    )


@pytest.mark.parametrize(
    ("name", "route_prefix", "message"),
    [
        ("", "/", "application name '': must not be empty or contain '#' or '/'"),
        ("a#b", "/", "application name 'a#b': must not be empty or contain '#' or '/'"),
        ("a/b", "/", "application name 'a/b': must not be empty or contain '#' or '/'"),
        ("a", "", "route_prefix='': must start with '/'"),
        ("a", "v1", "route_prefix='v1': must start with '/'"),
        ("a", "/v1/", "route_prefix='/v1/': must not end with '/', unless it is '/'"),
        ("a", "/{v1}", "route_prefix='/{v1}': must not contain '{' or '}'"),
    ],
)
def test_wrong_names_and_prefixes(name: str, route_prefix: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(Root.bind(), name, route_prefix)
    assert str(caught.value) == message


@pytest.mark.parametrize("route_prefix", ["/", "/v1", "/a/b", None])
def test_right_prefixes(route_prefix: str | None) -> None:
    assert build(Root.bind(), "a", route_prefix).route_prefix == route_prefix


def test_two_asgi_ingresses() -> None:
    class Api(Anything):
        __serve_is_asgi_ingress__ = True

    api = deployment(Api)
    assert names(build(api.bind(Leaf.bind()))) == ["Leaf", "Api"]
    with pytest.raises(ConfigurationError) as caught:
        build(api.bind(api.bind()))
    assert str(caught.value) == (
        'Found multiple FastAPI deployments in application "app". Please only include one deployment with '
        "@serve.ingress in your application to avoid this issue."
    )


def test_user_config_needs_a_class_with_reconfigure() -> None:
    def function() -> None: ...

    with pytest.raises(ConfigurationError, match=r"^deployment_def must be a class to use user_config or rank$"):
        build(deployment(user_config={})(function).bind())
    with pytest.raises(
        ConfigurationError,
        match=r"^user_config or rank specified but deployment app#Box missing reconfigure method$",
    ):
        build(deployment(user_config={})(Box).bind(1))
    assert build(Root.options(user_config={"a": 1}).bind()).deployments[0].options["user_config"] == {"a": 1}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 3),
        ({"num_replicas": 4}, 12),
        ({"num_replicas": 10}, 20),
        ({"max_constructor_retry_count": 1}, 1),
        ({"num_replicas": "auto"}, 3),
    ],
)
def test_max_constructor_failures(options: dict[str, Any], expected: int) -> None:
    assert build(Root.options(**options).bind()).deployments[0].max_constructor_failures == expected


def version(target: Application, code: CodeContext | None = None) -> str:
    spec = build_application(target, name="app", route_prefix="/", code=code or CodeContext())
    return spec.deployments[-1].version


def test_the_same_application_has_the_same_version() -> None:
    first, second = version(Root.bind(1, Leaf.bind())), version(Root.bind(1, Leaf.bind()))
    assert first == second
    assert len(first) == 16
    assert int(first, 16) >= 0


@pytest.mark.parametrize(
    "options",
    [
        {"num_replicas": 3},
        {"max_queued_requests": 3},
        {"graceful_shutdown_timeout_s": 3},
        {"graceful_shutdown_wait_loop_s": 3},
        {"health_check_period_s": 3},
        {"health_check_timeout_s": 3},
        {"startup_timeout_s": 3},
        {"max_constructor_retry_count": 3},
        {"rolling_update_percentage": 1},
        {"max_surge_percent": 3},
        {"autoscaling_config": {"max_replicas": 3}},
        {"num_replicas": "auto"},
        {"hang_timeout_s": 3},
        {"max_rss": "2 GiB"},
        {"user_config": {"a": 1}},
        {"max_ongoing_requests": 3},
        {"logging_config": {"encoding": "JSON"}},
        {"cancel_grace_s": 3},
        {"max_requests": 3},
    ],
)
def test_options_that_need_no_new_replicas(options: dict[str, Any]) -> None:
    assert version(Root.options(**options).bind()) == version(Root.bind())


@pytest.mark.parametrize(
    "changed",
    [
        Root.bind(1),
        Root.bind(x=1),
        Root.bind(Leaf.bind()),
        deployment(Box).options(name="Root").bind(1),
        Root.options(ray_actor_options={"num_cpus": 2}).bind(),
        Root.options(ray_actor_options={"num_cpus": 1}).bind(),  # the default, but stated: one is reserved
        Root.options(max_replicas_per_node=2).bind(),
    ],
)
def test_changes_that_need_new_replicas(changed: Application) -> None:
    assert version(changed) != version(Root.bind())


def test_where_code_is_found_needs_new_replicas() -> None:
    assert version(Root.bind(), CodeContext(cwd="/a")) != version(Root.bind(), CodeContext(cwd="/b"))


def test_an_edit_of_a_loaded_module_changes_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "users_module.py"
    source.write_text("x = 1")
    before = code_fingerprint(CodeContext())
    module = ModuleType("users_module")
    module.__file__ = str(source)
    monkeypatch.setitem(sys.modules, "users_module", module)
    loaded = code_fingerprint(CodeContext())
    source.write_text("x = 2")
    edited = code_fingerprint(CodeContext())
    assert len({before, loaded, edited}) == 3
    source.write_text("x = 1")
    assert code_fingerprint(CodeContext()) == loaded


@pytest.mark.parametrize("folder", ["lib/python3.11/site-packages", "dist-packages/x"])
def test_installed_modules_do_not_change_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    before = code_fingerprint(CodeContext())
    for place in (tmp_path / folder, Path(graph.__file__).parent, Path(logging.__file__).parent):
        module = ModuleType("not_the_users")
        module.__file__ = str(place / "not_the_users.py")
        monkeypatch.setitem(sys.modules, "not_the_users", module)
        assert code_fingerprint(CodeContext()) == before


SCRIPT = """
import sys
from salver.records import CodeContext
from salver.serve.deployment import deployment
from salver.serve.building.graph import build_application

WORD = sys.argv[1]

class Settings:
    size = 3

@deployment
class Model:
    def __init__(self, settings):
        self.settings = settings
    def __call__(self):
        return WORD

spec = build_application(Model.bind(Settings()), name="a", route_prefix="/", code=CodeContext())
print(spec.deployments[0].version)
"""


def test_a_script_run_again_has_the_same_version(tmp_path: Path) -> None:
    """Its classes are pickled by value, with the globals they use."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def run(word: str) -> str:
        command = [sys.executable, str(script), word]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    first = run("hello")
    assert run("hello") == first
    assert run("bye") != first


def calls(spec: ApplicationSpec) -> dict[str, list[str]]:
    return {one.id.name: [str(callee) for callee in one.calls] for one in spec.deployments}


def test_who_was_bound_with_whose_handle() -> None:
    leaf, other = Leaf.bind(), Leaf.options(name="Other").bind()
    middle = Root.options(name="Middle").bind([leaf, {"deep": Box(leaf)}])
    elsewhere = DeploymentHandle[Any]("Model", "another app")
    spec = build(Root.bind(middle, leaf, key=(elsewhere, Box(other))))
    assert calls(spec) == {
        "Leaf": [],
        "Middle": ["app#Leaf"],
        "Other": [],
        "Root": ["app#Middle", "app#Leaf", "another app#Model", "app#Other"],
    }


def test_handles_in_code_that_is_pickled_by_value_count_too() -> None:
    leaf = Leaf.bind()

    @deployment
    def calls_it() -> object:
        return leaf

    assert calls(build(calls_it.bind())) == {"Leaf": [], "calls_it": ["app#Leaf"]}
