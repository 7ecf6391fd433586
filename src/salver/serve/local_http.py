"""HTTP for applications that were run with ``serve.run(app, local=True)``: no socket, the same answers.

The methods are those that users of ``requests`` and ``httpx`` know, as far as tests need them. Test clients that
speak ASGI themselves take ``LocalClient.asgi``: ``httpx.AsyncClient(transport=httpx.ASGITransport(client.asgi))``.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from salver.data.asgi import Scope
from salver.data.asgi_ingress import ASGIIngress
from salver.errors import ServeException
from salver.serve.local_exchange import LocalExchange
from salver.serve.local_response import LocalResponse, LocalStream
from salver.serve.local_testing import LocalTestingSession
from salver.serve.session import current_session

if TYPE_CHECKING:
    from salver.serve.local_websocket import LocalWebSocket

_SAFE_IN_PATH = "/!$&'()*+,;=:@~%-._"


class LocalClient:
    """Sends requests to the applications of this process's local testing session, from any thread but its own.

    Args:
        session: of ``serve.run(app, local=True)``.
        timeout_s: for one request; then TimeoutError, and the request is cancelled as if its client had left. Where
            an answer comes in pieces that are taken one by one, for each of them.
    """

    def __init__(self, session: LocalTestingSession, timeout_s: float) -> None:
        if session.asgi is None:
            raise ServeException("The local testing session has ended.")
        self._session = session
        self._timeout_s = timeout_s
        self.asgi: ASGIIngress = session.asgi
        """The applications as one ASGI application, for other test clients; usable from any event loop."""

    def get(self, url: str, **options: Any) -> LocalResponse:
        """As ``request`` with GET."""
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> LocalResponse:
        """As ``request`` with POST."""
        return self.request("POST", url, **options)

    def put(self, url: str, **options: Any) -> LocalResponse:
        """As ``request`` with PUT."""
        return self.request("PUT", url, **options)

    def delete(self, url: str, **options: Any) -> LocalResponse:
        """As ``request`` with DELETE."""
        return self.request("DELETE", url, **options)

    def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | str | None = None,
        json: Any = None,
    ) -> LocalResponse:
        """Send one request and read the whole answer.

        Args:
            url: path with an optional query; scheme and host, if given, are ignored.
            params: more of the query.
            content: the body. ``json`` is one too, and sets its content type.

        Raises:
            TimeoutError: it was not answered in time.
            ConnectionError: the application failed in the middle of its answer.
        """
        until = monotonic() + self._timeout_s
        options = {"params": params, "headers": headers, "content": content, "json": json}
        with self.stream(method, url, **options) as answer:
            chunks: list[bytes] = []
            for piece in answer.iter_bytes():
                chunks.append(piece)
                if monotonic() > until:
                    raise TimeoutError(f"the answer was not complete after {self._timeout_s:g} s")
        return LocalResponse(answer.status_code, answer.raw_headers, chunks)
