"""What stands before the routes on TCP: every request passes it, and what it does not know it refuses.

In this order: the Host header, the page that a request comes from, the token. Only ``/livez`` and ``/readyz`` are
open, for probes, which have no token; they tell those nothing but yes or no.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from salver.controller.api.answers import Refusal
from salver.controller.api.auth import is_authorized
from salver.controller.api.browser_defence import SECURITY_HEADERS, is_from_our_pages, is_host_allowed
from salver.engine.local.admin_token import TokenExposed

logger = logging.getLogger("salver.controller")

OPEN_PATHS = frozenset({"/livez", "/readyz"})
AUTHORIZED = "salver.authorized"
"""In the scope of a request that has passed: whether it showed a token."""


class Guard:
    """An ASGI application in front of another.

    Args:
        routes: who gets what passes.
        tokens: the ones that are valid now. May raise TokenExposed: then none is.
        allowed_hosts: names in the Host header that the user allows.
    """

    def __init__(
        self, routes: ASGIApp, tokens: Callable[[], tuple[str, ...]], allowed_hosts: Callable[[], tuple[str, ...]]
    ) -> None:
        self._routes = routes
        self._tokens = tokens
        self._allowed_hosts = allowed_hosts
        self._said = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *SECURITY_HEADERS.items()]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._routes(scope, receive, send_with_headers)
        else:
            await refusal.answer()(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = scope["headers"]
        own_address: str = scope["server"][0] if scope.get("server") else ""
        if not is_host_allowed(headers, own_address, self._allowed_hosts()):
            return Refusal(421, "The Host header names none of this API's names; --admin-allowed-host adds one.")
        if not is_from_our_pages(scope["method"], headers):
            return Refusal(403, "This comes from a page of another origin.")
        scope[AUTHORIZED] = is_authorized(headers, self._valid_tokens())
        if scope[AUTHORIZED] or (scope["path"] in OPEN_PATHS and scope["method"] in {"GET", "HEAD"}):
            return None
        return Refusal(
            401,
            "This needs 'Authorization: Bearer TOKEN'; the token is in the file admin.token of the instance.",
            headers={"www-authenticate": "Bearer"},
        )

    def _valid_tokens(self) -> tuple[str, ...]:
        try:
            return self._tokens()
        except (TokenExposed, OSError) as error:
            if str(error) != self._said:
                self._said = str(error)
                logger.error("the control API takes no token on TCP: %s", error)  # noqa: TRY400
            return ()
