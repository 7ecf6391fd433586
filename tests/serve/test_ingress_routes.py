"""Routes of an application as one object serves them: which ones, in which order, with which dependencies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from salver import serve

from .asking import ask, query_names, served


class TestMethods:
    def test_get_self_and_their_own_parameters(self) -> None:
        app = FastAPI()

        @serve.ingress(app)
        class Web:
            def __init__(self, greeting: str) -> None:
                self.greeting = greeting

            @app.get("/{name}")
            async def greet(self, name: str, times: int = 1) -> list[str]:
                return [f"{self.greeting} {name}"] * times

        hello, bye = served(Web("hello")), served(Web("bye"))
        assert ask(hello, "/you", "/you?times=2", "/you?times=x") == [["hello you"], ["hello you"] * 2, 422]
        assert ask(bye, "/you") == [["bye you"]]
        assert query_names(hello, "/{name}") == ["name", "times"]

    def test_keep_their_place_among_the_other_routes(self) -> None:
        app = FastAPI()

        @app.get("/a")
        async def first() -> str:
            return "function"

        @serve.ingress(app)
        class Web:
            @app.get("/{anything}")
            async def any_path(self, anything: str) -> str:
                return anything

            @app.get("/b")
            async def never(self) -> str:
                raise AssertionError

        @app.get("/c")
        async def never_either() -> str:
            raise AssertionError

        assert ask(served(Web()), "/a", "/b", "/c") == ["function", "b", "c"]

    def test_wrong_methods_and_paths_are_answered_by_the_framework(self) -> None:
        app = FastAPI()

        @serve.ingress(app)
        class Web:
            @app.post("/a")
            async def post(self) -> int:
                return 1

        web = served(Web())
        assert ask(web, "/a", "/b") == [405, 404]
        assert ask(web, "/a", method="POST") == [1]

    def test_may_be_static_or_of_the_class(self) -> None:
        app = FastAPI()

        @serve.ingress(app)
        class Web:
            name = "Web"

            @staticmethod
            @app.get("/static")
            async def static(n: int) -> int:
                return n

            @classmethod
            @app.get("/class")
            async def of_class(cls) -> str:
                return cls.name

        assert ask(served(Web()), "/static?n=3", "/class?cls=x") == [3, "Web"]

    def test_are_found_below_other_decorators(self) -> None:
        """What stands above the route's decorator is for handles, as it is without classes."""
        app = FastAPI()

        def wraps(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> str:
                return "decorated"

            return wrapper

        def hides(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> str:
                return "decorated"

            return wrapper

        @serve.ingress(app)
        class Web:
            @wraps
            @app.get("/wraps")
            async def one(self, n: int) -> int:
                return n

            @hides
            @app.get("/hides")
            async def two(self, n: int) -> int:
                return n

            @app.get("/below")
            @wraps
            def three(self) -> str:
                raise AssertionError

        web = Web()
        assert ask(served(web), "/wraps?n=1", "/hides?n=2", "/below") == [1, 2, "decorated"]
        assert web.one() == web.two() == "decorated"

    def test_an_attribute_of_the_same_name_does_not_hide_them(self) -> None:
        app = FastAPI()

        @serve.ingress(app)
        class Web:
            def __init__(self) -> None:
                self.model: Any = "weights"

            @app.get("/model")
            async def model(self) -> str:
                return self.model

        assert ask(served(Web()), "/model") == ["weights"]

    def test_a_custom_kind_of_route_stays_one(self) -> None:
        app = FastAPI()

        class Timed(APIRoute):
            def get_route_handler(self) -> Callable[..., Any]:
                handle = super().get_route_handler()

                async def timed(request: Request) -> Response:
                    response = await handle(request)
                    response.body = b'"timed"'
                    response.headers["content-length"] = "7"
                    return response

                return timed

        app.router.route_class = Timed

        @serve.ingress(app)
        class Web:
            @app.get("/a")
            async def a(self) -> str:
                return "a"

        assert ask(served(Web()), "/a") == ["timed"]


_runs: list[str] = []


async def _of_route(x_key: Annotated[str, Header()]) -> str:
    _runs.append("route")
    return x_key


async def _real() -> str:
    return "real"


class TestDependencies:
    def test_of_the_application_and_the_router_run_once(self) -> None:
        runs = _runs
        runs.clear()

        async def of_app() -> None:
            runs.append("app")

        async def of_router() -> None:
            runs.append("router")

        app = FastAPI(dependencies=[Depends(of_app, use_cache=False)])
        router = APIRouter(dependencies=[Depends(of_router, use_cache=False)])

        @serve.ingress(app)
        class Web:
            @app.get("/app")
            async def a(self, key: Annotated[str, Depends(_of_route)]) -> str:
                return key

            @router.get("/router")
            async def r(self) -> str:
                return "r"

        app.include_router(router)
        web = served(Web())
        assert ask(web, "/app", headers={"x-key": "k"}) == ["k"]
        assert runs == ["app", "route"]
        runs.clear()
        assert ask(web, "/router") == ["r"]
        assert runs == ["app", "router"]

    def test_overrides_of_the_original_count(self) -> None:
        app = FastAPI()

        @serve.ingress(app)
        class Web:
            @app.get("/a")
            async def a(self, value: Annotated[str, Depends(_real)]) -> str:
                return value

        web = served(Web())
        app.dependency_overrides[_real] = lambda: "other"
        assert ask(web, "/a") == ["other"]

    def test_tags_and_responses_are_not_doubled(self) -> None:
        app = FastAPI()
        app.router.tags = ["all"]

        @serve.ingress(app)
        class Web:
            @app.get("/a", tags=["one"], responses={418: {"description": "teapot"}}, operation_id="op")
            async def a(self) -> int:
                """Documented.\f Not this."""
                return 1

        operation = served(Web()).openapi()["paths"]["/a"]["get"]
        assert operation["tags"] == ["all", "one"]
        assert operation["responses"]["418"] == {"description": "teapot"}
        assert (operation["description"], operation["operationId"]) == ("Documented.", "op")


class TestRouters:
    @pytest.mark.parametrize("included", ["before the class", "after the class"])
    def test_of_routers_at_any_depth(self, included: str) -> None:
        app = FastAPI()
        outer, inner = APIRouter(prefix="/outer"), APIRouter()

        def include() -> None:
            outer.include_router(inner, prefix="/inner")
            app.include_router(outer, prefix="/v1")

        if included == "before the class":
            inner.add_api_route("/function", lambda: "function")
            include()

        @serve.ingress(app)
        class Web:
            value = 3

            @outer.get("/a")
            async def a(self) -> int:
                return self.value

            @inner.get("")
            async def b(self, n: int) -> int:
                return self.value + n

        if included == "after the class":
            inner.add_api_route("/function", lambda: "function")
            include()
        app.add_api_route("/late", lambda: "late")
        web = served(Web())
        found = ask(web, "/v1/outer/a", "/v1/outer/inner?n=1", "/v1/outer/inner/function", "/late")
        assert found == [3, 4, "function", "late"]
        assert query_names(web, "/v1/outer/inner") == ["n"]

    def test_routers_without_methods_stay_the_same_objects(self) -> None:
        app = FastAPI()
        router = APIRouter()
        router.add_api_route("/a", lambda: 1)
        app.include_router(router)

        @serve.ingress(app)
        class Web:
            pass

        assert served(Web()).routes[4:] == app.routes[4:]


class TestClassesThatShareAnApplication:
    def test_each_serves_its_own_methods_and_all_functions(self) -> None:
        app = FastAPI()
        app.add_api_route("/both", lambda: "both")

        @serve.ingress(app)
        class One:
            @app.get("/one")
            async def get(self) -> str:
                return "one"

        @serve.ingress(app)
        class Two:
            @app.get("/two")
            async def get(self) -> str:
                return "two"

        assert ask(served(One()), "/one", "/two", "/both") == ["one", 404, "both"]
        assert ask(served(Two()), "/one", "/two", "/both") == [404, "two", "both"]

    def test_two_classes_of_one_name_are_two(self) -> None:
        app = FastAPI()

        def make(value: str) -> type:
            @serve.ingress(app)
            class Web:
                @app.get("/value")
                async def get(self) -> str:
                    return value

            return Web

        one, two = make("one"), make("two")
        assert ask(served(one()), "/value") == ["one"]
        assert ask(served(two()), "/value") == ["two"]

    def test_a_subclass_overrides_and_adds(self) -> None:
        app = FastAPI()

        @serve.ingress(app)
        class Base:
            @app.get("/a")
            async def a(self) -> str:
                return "base"

            @app.get("/b")
            async def b(self) -> str:
                return "base"

        class Sub(Base):
            def __init__(self) -> None:
                self.name = "sub"

            async def a(self, n: int = 1) -> str:
                return f"{self.name} {n} {await super().a()}"

            @app.get("/c")
            async def c(self) -> str:
                return self.name

        assert ask(served(Sub()), "/a?n=2", "/b", "/c") == ["sub 2 base", "base", "sub"]
        assert ask(served(Base()), "/a", "/b", "/c") == ["base", "base", 404]
        assert query_names(served(Sub()), "/a") == ["n"]
