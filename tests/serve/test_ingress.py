"""The decorator: what it takes, what it leaves of the class, and how class and application travel to a replica."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from salver import serve
from salver.errors import ConfigurationError
from salver.records import CodeContext
from salver.serve.building.graph import build_application
from salver.wire.payload import dump_definition, load_definition

from .asking import served

app = FastAPI()


@serve.ingress(app)
class Importable:
    @app.get("/")
    def get(self) -> str:
        return "a"


@serve.deployment
@serve.ingress(app)
class Deployed:
    pass


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("is not called here")


def test_frameworks_are_imported_by_the_users_code_alone() -> None:
    imports = "import sys, salver.serve, salver.data.replica.replica"
    check = f"{imports}; print({{'fastapi', 'starlette.applications'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


class TestWhatItTakes:
    def test_the_class_itself_comes_back_marked(self) -> None:
        class Web:
            pass

        assert serve.ingress(app)(Web) is Web
        assert Web.__serve_is_asgi_ingress__  # pyright: ignore[reportAttributeAccessIssue]

    def test_an_asgi_function_is_served_as_it_is(self) -> None:
        assert built(plain_app) is plain_app

    def test_a_bound_method_of_an_application_is_one_too(self) -> None:
        asgi = Starlette()
        assert built(asgi.__call__) == asgi.__call__

    def test_a_builder_is_called_for_each_object(self) -> None:
        made: list[FastAPI] = []

        def build() -> FastAPI:
            made.append(FastAPI())
            return made[-1]

        @serve.ingress(build)
        class Web:
            pass

        assert made == []
        served(Web())
        served(Web())
        assert len(made) == 2

    def test_a_builder_may_be_a_partial(self) -> None:
        assert isinstance(built(functools.partial(FastAPI, title="partial")), FastAPI)

    def test_none_means_that_the_class_knows(self) -> None:
        @serve.ingress(None)
        class Web:
            def __init__(self) -> None:
                self.app = plain_app

            def __serve_build_asgi_app__(self) -> Any:
                return self.app

        assert served(Web()) is plain_app

    def test_none_needs_the_method(self) -> None:
        with pytest.raises(ConfigurationError, match="Web must have a method __serve_build_asgi_app__"):

            @serve.ingress(None)
            class Web:
                pass

    def test_a_class_with_call_is_refused(self) -> None:
        class Base:
            def __call__(self) -> None:
                raise AssertionError

        message = r"^Classes passed to @serve.ingress may not have __call__ method\.$"
        with pytest.raises(ValueError, match=message):

            @serve.ingress(app)
            class Web(Base):
                pass

    def test_the_order_of_the_decorators(self) -> None:
        with pytest.raises(ConfigurationError, match="it goes below: directly above the class"):
            serve.ingress(app)(Deployed)  # pyright: ignore[reportArgumentType, reportUnusedExpression]

    @pytest.mark.parametrize("wrong", [FastAPI, "app", 3])
    def test_what_is_no_application(self, wrong: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"use it as @serve\.ingress\(app\)"):
            serve.ingress(wrong)

    def test_a_builder_that_gives_no_application_is_told_in_the_replica(self) -> None:
        with pytest.raises(ConfigurationError, match="3 is no ASGI application"):
            built(lambda: 3)


class TestInheritance:
    def test_a_subclass_is_an_ingress_and_constructed_as_any_other(self) -> None:
        class Sub(Importable):
            def __init__(self) -> None:
                super().__init__()
                self.ready = True

        assert Sub().ready
        assert isinstance(served(Sub()), FastAPI)

    def test_a_subclass_may_have_an_application_of_its_own(self) -> None:
        @serve.ingress(plain_app)
        class Sub(Importable):
            pass

        assert served(Sub()) is plain_app
        assert isinstance(served(Importable()), FastAPI)

    def test_two_of_them_in_one_application_are_refused(self) -> None:
        @serve.deployment
        @serve.ingress(app)
        class Outer:
            def __init__(self, child: Any) -> None: ...

        class Inner(Importable):
            pass

        target = Outer.bind(serve.deployment(Inner).bind())
        with pytest.raises(ConfigurationError, match="Found multiple FastAPI deployments"):
            build_application(target, name="a", route_prefix="/", code=CodeContext())


class TestTheOriginal:
    def test_is_not_changed(self) -> None:
        before = dict(vars(app)), dict(vars(app.router)), list(app.routes), dict(app.exception_handlers)
        copied: Any = served(Importable())
        assert (dict(vars(app)), dict(vars(app.router)), list(app.routes), dict(app.exception_handlers)) == before
        assert copied.router is not app.router
        assert copied.openapi() != app.openapi()

    def test_shares_its_state_with_the_only_copy(self) -> None:
        alone = FastAPI()
        alone.state.before = 1

        @serve.ingress(alone)
        class Web:
            pass

        first: Any = served(Web())
        first.state.mine = 1
        assert (first.state.before, alone.state.mine) == (1, 1)

        second: Any = served(Web())
        second.state.mine = 2
        assert (second.state.before, first.state.mine, alone.state.mine) == (1, 1, 1)


class TestPickling:
    def test_an_importable_class_travels_by_reference_and_its_application_not_at_all(self) -> None:
        definition = dump_definition((Importable, (), {}))
        assert len(definition) < 300
        assert load_definition(definition)[0] is Importable

    def test_so_does_one_that_is_deployed_under_its_name(self) -> None:
        definition = dump_definition((Deployed.func_or_class, (), {}))
        assert len(definition) < 300

    def test_a_local_class_takes_its_application_along(self, tmp_path: Path) -> None:
        """In a process that has nothing of this one's modules."""
        (tmp_path / "driver.py").write_text(BY_VALUE)
        (tmp_path / "replica.py").write_text(LOAD)
        for script in ("driver.py", "replica.py"):
            done = subprocess.run(
                [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[:2] == ["['/docs', '/item', '/later', '/nested/{n}', '/socket']", "5"]

    def test_the_rules_leave_state_copyable(self) -> None:
        alone = FastAPI()
        alone.state.value = 3
        serve.ingress(alone)
        assert copy.copy(alone.state).value == 3


BY_VALUE = """
from contextlib import asynccontextmanager
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from pydantic import BaseModel
from salver import serve
from salver.wire.payload import dump_definition

@asynccontextmanager
async def lifespan(app):
    yield {"model": 1}

def make():
    app = FastAPI(lifespan=lifespan, redoc_url=None, openapi_url="/docs", docs_url=None)
    app.state.value = 5
    router = APIRouter(prefix="/nested")

    class Item(BaseModel):
        n: int

    @serve.deployment
    @serve.ingress(app)
    class Web:
        @app.post("/item")
        def item(self, item: Item, d: int = Depends(lambda: 3)) -> Item:
            return item

        @router.get("/{n}")
        def nested(self, n: int) -> int:
            return n

        @app.websocket("/socket")
        async def socket(self, socket: WebSocket) -> None: ...

    @app.middleware("http")
    async def pass_on(request, call_next):
        return await call_next(request)

    app.include_router(router)
    app.add_api_route("/later", lambda: 1)
    return Web.func_or_class

open("definition", "wb").write(dump_definition((make(), (), {})))
"""

LOAD = """
import asyncio
from salver.wire.payload import load_definition

web = load_definition(open("definition", "rb").read())[0]()
app = web.__serve_build_asgi_app__()

def paths(routes):
    for route in routes:
        if hasattr(route, "original_router"):
            yield from paths(route.original_router.routes)
        else:
            yield route.path

print(sorted(paths(app.routes)))
print(app.state.value)
"""


def built(source: Any) -> Any:
    @serve.ingress(source)
    class Web:
        pass

    return served(Web())
