"""From a request to its endpoint: one table of paths, each with its methods.

A table of our own, for what frameworks leave open: another method on a known path is 405 with all methods in
``Allow``, whatever is wrong is a problem document, and the table can be walked, by the OpenAPI document and by the
tests that try every route without a token.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable

from msgspec import Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from salver.controller.api.answers import Refusal

logger = logging.getLogger("salver.controller")

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint(Struct, frozen=True):
    """What one method of one path does.

    Attributes:
        path: with ``{name}`` for its parameters, each a whole part between slashes.
        handler: may raise Refusal.
        from_this_machine: carries code, so it is refused on TCP whoever asks.
    """

    method: str
    path: str
    handler: Handler
    from_this_machine: bool = False


class Routes:
    """The ASGI application of a table of endpoints.

    Args:
        endpoints: all of them.
        over_network: whether requests may come from other machines.
    """

    def __init__(self, endpoints: Iterable[Endpoint], *, over_network: bool) -> None:
        self._over_network = over_network
        self._methods: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            self._methods.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        self._patterns = [(path.split("/"), methods) for path, methods in self._methods.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        request = Request(scope, receive)
        try:
            answer = await self._answer(request)
        except Refusal as refusal:
            answer = refusal.answer()
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            answer = Refusal(500, "The controller failed at this; its log says why.").answer()
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path: str = request.scope["path"]
        parts = path.split("/")
        for pattern, methods in self._patterns:
            parameters = _parameters(pattern, parts)
            if parameters is not None:
                request.scope["path_params"] = parameters
                return await self._handler(methods, request.method)(request)
        raise Refusal(404, "There is nothing at this path; /openapi.json lists what there is.")

    def _handler(self, methods: dict[str, Endpoint], method: str) -> Handler:
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            allowed = ", ".join(sorted({*methods, "HEAD"} if "GET" in methods else methods))
            raise Refusal(405, f"This path takes {allowed} only.", headers={"allow": allowed})
        if endpoint.from_this_machine and self._over_network:
            raise Refusal(
                403,
                "This carries code, so it is taken on the instance's Unix socket only: use a config file instead.",
            )
        return endpoint.handler


def _parameters(pattern: list[str], parts: list[str]) -> dict[str, str] | None:
    """What stands for ``{name}`` in a path that fits; None for one that does not."""
    if len(pattern) != len(parts):
        return None
    found: dict[str, str] = {}
    for expected, part in zip(pattern, parts, strict=True):
        if expected.startswith("{") and part:
            found[expected[1:-1]] = part
        elif expected != part:
            return None
    return found
