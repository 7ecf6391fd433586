"""What handles keep, what code in a replica knows, and what child calls inherit."""

from __future__ import annotations

import pickle  # noqa: TID251 - users do
from contextvars import ContextVar
from typing import Any

import pytest

from e2e.handle_scene import WITHIN_S, Run, run
from harness.waiting import eventually
from salver import serve
from salver.serve.context import ReplicaRank, _get_serve_request_context, get_replica_context
from salver.serve.exceptions import RayServeException
from salver.serve.handle import DeploymentHandle

__all__ = ["run"]

colour: ContextVar[str] = ContextVar("colour", default="none")


@serve.deployment
class Child:
    """Tells what it knows of its request."""

    async def request(self) -> dict[str, Any]:
        return known()

    def request_in_a_thread(self) -> dict[str, Any]:
        return known()


@serve.deployment(num_replicas=1)
class Parent:
    """Tells what it knows of itself and its request."""

    def __init__(self, child: DeploymentHandle[Any]) -> None:
        self.child = child
        self.at_construction = get_replica_context()

    async def both(self, method: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return known(), await self.child.options(method_name=method).remote()

    def replica(self) -> tuple[Any, ...]:
        context = get_replica_context()
        assert context.servable_object is self
        assert self.at_construction.servable_object is None
        assert self.at_construction.replica_id == context.replica_id
        return (
            context.app_name,
            context.deployment,
            context.replica_tag,
            str(context.replica_id),
            context.world_size,
            context.rank,
            context.gang_context,
            bool(context.code_version),
        )

    async def through_tasks_and_threads(self) -> tuple[str, str]:
        colour.set("red")
        return colour.get(), await self.child.request.remote() and colour.get()


def known() -> dict[str, Any]:
    context = _get_serve_request_context()
    return {
        "request_id": context.request_id,
        "app_name": context.app_name,
        "model": context.multiplexed_model_id,
        "session": context.session_id,
        "http": context.is_http_request,
    }


@pytest.fixture
def parent(run: Run) -> DeploymentHandle[Any]:
    return run(Parent.bind(Child.bind()))


@pytest.mark.parametrize("method", ["request", "request_in_a_thread"])
def test_child_calls_inherit_the_request_but_not_its_model_or_session(
    parent: DeploymentHandle[Any], method: str
) -> None:
    response = parent.options(session_id="s-1", multiplexed_model_id="m-1").both.remote(method)
    own, childs = response.result(timeout_s=WITHIN_S)
    assert own == {
        "request_id": response.request_id,
        "app_name": "default",
        "model": "m-1",
        "session": "s-1",
        "http": False,
    }
    assert childs == {**own, "model": "", "session": ""}


def test_a_replica_knows_itself(parent: DeploymentHandle[Any]) -> None:
    app, deployment, tag, replica_id, *rest = parent.replica.remote().result(timeout_s=WITHIN_S)
    assert (app, deployment) == ("default", "Parent")
    assert replica_id == f"default#Parent#{tag}"
    assert rest == [1, ReplicaRank(0, 0, 0), None, True]


def test_outside_of_replicas_there_is_no_replica_context() -> None:
    with pytest.raises(RayServeException) as caught:
        serve.get_replica_context()
    assert str(caught.value) == (
        "`serve.get_replica_context()` may only be called from within a Ray Serve deployment."
    )


def test_context_variables_of_user_code_are_its_own(parent: DeploymentHandle[Any]) -> None:
    assert parent.through_tasks_and_threads.remote().result(timeout_s=WITHIN_S) == ("red", "red")
    assert colour.get() == "none"


# --- options ------------------------------------------------------------------------------------------------

HANDLE: DeploymentHandle[Any] = DeploymentHandle("Child", "default")


def test_options_are_kept_by_methods_and_pickling() -> None:
    handle = HANDLE.options(stream=True, multiplexed_model_id="m", session_id="s", request_serialization="msgpack")
    for derived in (handle, handle.spell, pickle.loads(pickle.dumps(handle.spell)), handle.options(session_id="s")):
        options = derived._options
        assert (options.stream, options.multiplexed_model_id, options.session_id) == (True, "m", "s")
        assert options.request_serialization == "msgpack"
    assert repr(handle.spell) == "DeploymentHandle(deployment='Child', app='default', method='spell', stream=True)"
    assert HANDLE._options.stream is False


def test_a_method_can_be_given_as_itself() -> None:
    child = Child.func_or_class
    assert repr(HANDLE.options(method_name=child.request)) == repr(HANDLE.request)
    assert repr(HANDLE[child.request]) == repr(HANDLE.request)

    def items() -> Any:
        yield 1

    assert "stream=True" in repr(HANDLE[items])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"stream": "yes"}, r"stream must be a bool, got 'yes' \(str\)"),
        ({"session_id": 3}, r"session_id must be a str, got 3 \(int\)"),
        ({"request_serialization": "xml"}, r"request_serialization must be one of .*'orjson'\), got 'xml'"),
        ({"method_name": lambda: None}, r"method_name must be the name of a method or the method itself"),
        ({"_by_reference": 1}, r"_by_reference must be a bool"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        HANDLE.options(**options)


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"no option 'timeout_s'; there are method_name, stream"):
        HANDLE.options(timeout_s=1)  # type: ignore[call-overload]


def test_a_handle_is_initialized_once(parent: DeploymentHandle[Any]) -> None:
    handle: DeploymentHandle[Any] = DeploymentHandle("Child", "default")
    assert not handle.is_initialized
    assert not handle.running_replicas_populated()
    with pytest.raises(TypeError, match="no option '_prefer'"):
        handle._init(_prefer=True)
    handle._init(_prefer_local_routing=True, _run_router_in_separate_loop=True)
    assert handle.request.is_initialized
    eventually("it is connected", handle.running_replicas_populated, WITHIN_S)
    with pytest.raises(RuntimeError, match="initialized already"):
        handle._init()
    with pytest.raises(RuntimeError, match="initialized already"):
        made_calls: DeploymentHandle[Any] = DeploymentHandle("Child", "default")
        made_calls.request.remote().result(timeout_s=WITHIN_S)
        made_calls._init()
    handle.shutdown()
    assert not handle.is_initialized
    assert handle.request.remote().result(timeout_s=WITHIN_S)
