"""Nasty objects as arguments, results, items and exceptions: an error that says what, and everybody lives on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
import requests
from nasty import HARMLESS, RAISED, UNLOADABLE, UNPICKLABLE

from salver import serve
from salver.serve.exceptions import RayServeException, RemoteException, RequestCancelledError, SerializationError
from salver.serve.handle import DeploymentHandle

WITHIN_S = 60.0
MOST_TEXT = 40_000
TABLES = {"unpicklable": UNPICKLABLE, "unloadable": UNLOADABLE, "harmless": HARMLESS}


def made(name: str) -> BaseException:
    return RAISED[name][0]()


@serve.deployment(max_ongoing_requests=4)
class Child:
    def pid(self) -> int:
        return os.getpid()

    def take(self, value: Any) -> str:
        return type(value).__name__

    def give(self, table: str, name: str) -> Any:
        return {"model": [TABLES[table][name]()]}

    async def give_bare(self, table: str, name: str) -> Any:
        return TABLES[table][name]()

    def stream(self, table: str, name: str) -> Iterator[Any]:
        yield "first"
        yield {"model": [TABLES[table][name]()]}
        yield "never"

    async def stream_async(self, table: str, name: str) -> AsyncIterator[Any]:
        yield "first"
        yield {"model": [TABLES[table][name]()]}
        yield "never"

    def fail(self, name: str) -> None:
        raise made(name)

    async def fail_async(self, name: str) -> None:
        raise made(name)

    async def stream_and_fail(self, name: str) -> AsyncIterator[Any]:
        yield "first"
        raise made(name)


@serve.deployment
class Ingress:
    def __init__(self, child: DeploymentHandle[Any]) -> None:
        self.child = child

    async def __call__(self, request: Any) -> Any:
        kind, table, name = (request.query_params[key] for key in ("kind", "table", "name"))
        if kind == "argument":
            return await self.child.take.remote({"model": [TABLES[table][name]()]})
        if kind == "result":
            return await self.child.give.remote(table, name)
        if kind == "raise":
            return await self.child.fail.remote(name)
        return TABLES[table][name]()

    async def pid(self) -> int:
        return os.getpid()


class Running:
    """The application, and the pids that it must still have in the end."""

    def __init__(self) -> None:
        serve.start(http_options={"port": 0})
        self.url = serve.status().instance.url
        self.ingress: DeploymentHandle[Any] = serve.run(Ingress.bind(Child.bind()))
        self.child: DeploymentHandle[Any] = serve.get_deployment_handle("Child", "default")
        self.pids = self.pids_now()

    def pids_now(self) -> tuple[int, int]:
        return (
            self.child.pid.remote().result(timeout_s=WITHIN_S),
            self.ingress.pid.remote().result(timeout_s=WITHIN_S),
        )

    def get(self, **params: str) -> requests.Response:
        return requests.get(self.url, params=params, timeout=WITHIN_S)


@pytest.fixture
def app() -> Generator[Running]:
    running = Running()
    yield running
    assert running.pids_now() == running.pids, "the replicas live, and answer"
    serve.shutdown()


def check(error: BaseException, *parts: str) -> None:
    text = str(error)
    for part in parts:
        assert part in text
    assert len(text) < MOST_TEXT


def test_what_cannot_be_pickled_as_an_argument(app: Running) -> None:
    for name, make in UNPICKLABLE.items():
        value = make()
        with pytest.raises((SerializationError, KeyboardInterrupt)) as caught:
            app.child.take.remote(1, {"model": [value]})
        if isinstance(caught.value, KeyboardInterrupt):
            assert name == "getstate raises KeyboardInterrupt", "cannot be told from Ctrl-C in a script"
            continue
        check(caught.value, "Child.take: argument 2['model'][0]", "cannot be pickled: ")
        del caught
        if hasattr(type(value), "close"):
            value.close()
        assert app.child.take.remote(1).result(timeout_s=WITHIN_S) == "int", name


@pytest.mark.parametrize("method", ["give", "stream", "stream_async"])
def test_what_cannot_be_pickled_as_a_result_or_an_item(app: Running, method: str) -> None:
    for name in UNPICKLABLE:
        what = "the result of Child.give" if method == "give" else f"item 2 of Child.{method}"
        with pytest.raises(SerializationError) as caught:
            answer(app, method, "unpicklable", name)
        check(caught.value, f"{what}['model'][0]", "cannot be pickled: ")
        assert app.child.take.remote(1).result(timeout_s=WITHIN_S) == "int", name


def answer(app: Running, method: str, table: str, name: str) -> Any:
    """The value of a method that gives one, or the second item of one that streams."""
    if not method.startswith("stream"):
        return app.child.options(method_name=method).remote(table, name).result(timeout_s=WITHIN_S)
    items = app.child.options(method_name=method, stream=True).remote(table, name)
    assert next(items) == "first"
    return next(items)


def test_what_is_no_value_at_all_fails_the_call_alone(app: Running) -> None:
    """Returned as it is, not inside of something: some of it is a generator, or pretends to be awaitable."""
    for name in UNPICKLABLE:
        with pytest.raises(Exception) as caught:
            answer(app, "give_bare", "unpicklable", name)
        assert not isinstance(caught.value, TimeoutError), name
        check(caught.value)
        assert app.child.take.remote(1).result(timeout_s=WITHIN_S) == "int", name


def test_what_cannot_be_rebuilt(app: Running) -> None:
    for name, make in UNLOADABLE.items():
        with pytest.raises(SerializationError) as caught:
            app.child.take.remote({"model": [make()]}).result(timeout_s=WITHIN_S)
        check(caught.value, "the arguments of Child.take: cannot rebuild a received value here: ")
        with pytest.raises(SerializationError) as caught:
            answer(app, "give", "unloadable", name)
        check(caught.value, "the result of Child.give: cannot rebuild a received value here: ")
        for method in ("stream", "stream_async"):
            with pytest.raises(SerializationError) as caught:
                answer(app, method, "unloadable", name)
            check(caught.value, f"an item of Child.{method}: cannot rebuild a received value here: ")
        assert app.child.take.remote(1).result(timeout_s=WITHIN_S) == "int", name


def test_a_list_within_itself_arrives(app: Running) -> None:
    value: list[Any] = [1]
    value.append(value)
    assert app.child.take.remote(value).result(timeout_s=WITHIN_S) == "list"


def test_what_only_looks_hard_arrives(app: Running) -> None:
    for name, make in HARMLESS.items():
        assert app.child.take.remote(make()).result(timeout_s=WITHIN_S) == type(make()).__name__
        for method in ("give", "stream", "stream_async"):
            assert type(answer(app, method, "harmless", name)["model"][0]).__name__ == type(make()).__name__


@pytest.mark.parametrize("method", ["fail", "fail_async", "stream_and_fail"])
def test_exceptions(app: Running, method: str) -> None:
    for name, (_, text) in RAISED.items():
        error = raised_by(app, method, name)
        ours = RequestCancelledError if name == "CancelledError" else RemoteException
        assert type(error) is ours or not issubclass(type(error), RayServeException), name
        if type(error) is RemoteException:
            check(error, text)
        assert len(str(BaseException.__cause__.__get__(error))) < MOST_TEXT * 2
        assert app.child.take.remote(1).result(timeout_s=WITHIN_S) == "int", name


def raised_by(app: Running, method: str, name: str) -> BaseException:
    """What the caller gets; pytest would ask it too much."""
    handle = app.child.options(method_name=method, stream=method.startswith("stream"))
    response = handle.remote(name)
    try:
        if method.startswith("stream"):
            assert next(response) == "first"
            next(response)
        else:
            response.result(timeout_s=WITHIN_S)
    except BaseException as error:
        return error
    raise AssertionError(f"{name}: nothing was raised")


def test_http_answers_500(app: Running) -> None:
    for kind, table in (("argument", "unpicklable"), ("result", "unpicklable"), ("result", "unloadable")):
        for name in TABLES[table]:
            response = app.get(kind=kind, table=table, name=name)
            assert response.status_code == 500, (kind, name)
            assert len(response.content) < MOST_TEXT
    for name in RAISED:
        response = app.get(kind="raise", table="", name=name)
        assert response.status_code == 500, name
        assert len(response.content) < MOST_TEXT
    for name in UNPICKLABLE:
        response = app.get(kind="itself", table="unpicklable", name=name)
        assert response.status_code in (200, 500), name
        assert len(response.content) < MOST_TEXT
