"""The copy of an application that an object has: its documentation, WebSockets, handlers; and Starlette's."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.openapi.utils import get_openapi
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute

from salver import serve
from salver.errors import BackPressureError, DeploymentUnavailableError, ServeException

from .asking import ask, query_names, served


class TestWebSockets:
    def test_get_self_too(self) -> None:
        app = FastAPI()

        @serve.ingress(app)
        class Web:
            greeting = "hello"

            @app.websocket("/chat/{name}")
            async def chat(self, websocket: WebSocket, name: str, times: int = 1) -> None:
                await websocket.accept()
                await websocket.send_text(f"{self.greeting} {name} {times} {await websocket.receive_text()}")
                await websocket.close()

        sent: list[Any] = []
        received = iter([{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "there"}])

        async def receive() -> Any:
            return next(received)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/prefix/chat/you", "root_path": "/prefix", "query_string": b"times=2"}
        asyncio.run(served(Web())({**scope, "headers": [], "subprotocols": []}, receive, send))
        assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
        assert sent[1]["text"] == "hello you 2 there"


class TestDocumentation:
    def test_is_that_of_the_copy_below_the_prefix(self) -> None:
        app = FastAPI()

        @serve.ingress(app)
        class Web:
            @app.get("/a")
            async def a(self, n: int) -> int:
                return n

        app.openapi()  # that the original has one is no reason to show it
        web = served(Web())
        (schema,) = ask(web, "/openapi.json", root_path="/prefix")
        assert schema["servers"] == [{"url": "/prefix"}]
        assert [p["name"] for p in schema["paths"]["/a"]["get"]["parameters"]] == ["n"]

    def test_removed_routes_of_it_do_not_come_back(self) -> None:
        app = FastAPI(docs_url=None)
        app.router.routes[:] = [route for route in app.routes if getattr(route, "path", "") != "/redoc"]

        @serve.ingress(app)
        class Web:
            pass

        assert [route.path for route in served(Web()).routes] == ["/openapi.json"]

    def test_a_schema_of_the_users_describes_the_copy(self) -> None:
        app = FastAPI()

        def openapi() -> dict[str, Any]:
            if not app.openapi_schema:
                app.openapi_schema = get_openapi(title="mine", version="1", routes=app.routes)
            return app.openapi_schema

        app.openapi = openapi

        @serve.ingress(app)
        class Web:
            @app.get("/a")
            async def a(self, n: int) -> int:
                return n

        web = served(Web())
        (schema,) = ask(web, "/openapi.json")
        assert schema["info"]["title"] == "mine"
        assert query_names(web, "/a") == ["n"]
        assert web.openapi() is web.openapi()
        assert app.openapi_schema is None


class TestStarlette:
    def test_methods_mounts_and_the_middleware_of_routes(self) -> None:
        class Stamp:
            def __init__(self, app: Any) -> None:
                self.app = app

            async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
                scope["stamp"] = "stamped"
                await self.app(scope, receive, send)

        class Pages:
            async def page(self, request: Request) -> Response:
                return PlainTextResponse(f'"{self.name} {request.scope.get("stamp")}"')

            async def socket(self, websocket: Any) -> None: ...

            name = "pages"

        async def sub(scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse(f'"{scope["root_path"]}"')(scope, receive, send)

        app = Starlette(
            routes=[
                Route("/page", Pages.page, middleware=[Middleware(Stamp)]),
                Route("/plain", Pages.page),
                WebSocketRoute("/socket", Pages.socket),
                Mount("/sub", sub),
            ]
        )
        web = served(serve.ingress(app)(Pages)())
        answers = ask(web, "/page", "/plain", "/sub/x", root_path="/prefix")
        assert answers == ["pages stamped", "pages None", "/prefix/sub"]
        assert web.routes[2].endpoint.__self__ is not None
        assert app.routes[0].endpoint is Pages.page

    def test_exception_handlers_of_the_application_stay(self) -> None:
        app = FastAPI()

        @app.exception_handler(HTTPException)
        async def teapot(request: Request, error: HTTPException) -> Response:
            return Response(status_code=418)

        @serve.ingress(app)
        class Web:
            @app.get("/a")
            async def a(self) -> None:
                raise HTTPException(400)

        assert ask(served(Web()), "/a") == [418]


class TestErrorsOfTheIngress:
    def test_a_handler_of_the_users_goes_first(self) -> None:
        """Also one for a base of theirs; one for every exception is no such."""
        app = FastAPI()

        @app.exception_handler(BackPressureError)
        async def busy(request: Request, error: BackPressureError) -> Response:
            return Response(status_code=418)

        @app.exception_handler(Exception)
        async def broken(request: Request, error: Exception) -> Response:
            return Response(status_code=599)

        @serve.ingress(app)
        class Web:
            @app.get("/busy")
            async def busy(self) -> None:
                raise BackPressureError(1, 1)

        web = served(Web())
        assert ask(web, "/busy") == [418]
        assert DeploymentUnavailableError in web.exception_handlers

        app.add_exception_handler(ServeException, busy)  # pyright: ignore[reportArgumentType]
        assert DeploymentUnavailableError not in served(Web()).exception_handlers
