"""HTTP for applications that were run with ``serve.run(app, local=True)``: no socket, the same answers.

The methods are those that users of ``requests`` and ``httpx`` know, as far as tests need them. Test clients that
speak ASGI themselves take ``LocalClient.asgi``: ``httpx.AsyncClient(transport=httpx.ASGITransport(client.asgi))``.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from salver.data.http.asgi_ingress import ASGIIngress
from salver.data.replica.asgi import Scope
from salver.errors import ServeException
from salver.serve.local.exchange import LocalExchange
from salver.serve.local.response import LocalResponse, LocalStream
from salver.serve.local.session import LocalTestingSession
from salver.serve.session import current_session

if TYPE_CHECKING:
    from salver.serve.local.websocket import LocalWebSocket

_SAFE_IN_PATH = "/!$&'()*+,;=:@~%"
_SAFE_IN_QUERY = _SAFE_IN_PATH + "?"
_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))


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
        exchange = self._begin(method, url, params, headers, content, json, whole=True)
        with closing(exchange):
            answer = LocalStream(exchange)
            return LocalResponse(answer.status_code, answer.raw_headers, list(answer.iter_bytes()))

    @contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | str | None = None,
        json: Any = None,
    ) -> Generator[LocalStream]:
        """As ``request``, for an answer that is read as it comes: ``with client.stream("GET", "/") as answer``.

        The application is held up while its pieces are not taken, as by a slow client. At the end of the ``with`` the
        client leaves: what has not been sent is cancelled.
        """
        exchange = self._begin(method, url, params, headers, content, json, whole=False)
        with closing(exchange):
            yield LocalStream(exchange)

    def websocket_connect(
        self, url: str, subprotocols: Sequence[str] = (), *, headers: Mapping[str, str] | None = None
    ) -> LocalWebSocket:
        """A WebSocket: ``with client.websocket_connect("/chat") as websocket``.

        Args:
            subprotocols: those that the client speaks; the application chooses one.
        """
        from salver.serve.local.websocket import LocalWebSocket  # few tests need it

        scope = _scope(url, {}, headers or {})
        scope |= {"type": "websocket", "scheme": "ws", "subprotocols": list(subprotocols)}
        scope["extensions"] = {"websocket.http.response": {}}
        return LocalWebSocket(LocalExchange(self._session, self.asgi, scope, self._timeout_s))

    def _begin(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        content: bytes | str | None,
        json: Any,
        *,
        whole: bool,
    ) -> LocalExchange:
        body = content.encode() if isinstance(content, str) else content or b""
        fields = {"accept": "*/*", "user-agent": "salver-local-client"}
        fields |= {name.lower(): value for name, value in (headers or {}).items()}
        if json is not None:
            body = _json_bytes(json)
            fields.setdefault("content-type", "application/json")
        method = method.upper()
        if body or method in _WITH_BODY:
            fields.setdefault("content-length", str(len(body)))
        scope = _scope(url, params or {}, fields) | {"type": "http", "method": method}
        exchange = LocalExchange(self._session, self.asgi, scope, self._timeout_s, whole=whole)
        exchange.start({"type": "http.request", "body": body, "more_body": False})
        return exchange


def client_of_this_process(timeout_s: float) -> LocalClient:
    """Raises ServeException when this process runs no local testing session."""
    session = current_session()
    if not isinstance(session, LocalTestingSession):
        raise ServeException("There is no local testing session: call serve.run(app, local=True) first.")
    return LocalClient(session, timeout_s)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def _scope(url: str, params: Mapping[str, str], headers: Mapping[str, str]) -> Scope:
    """What HTTP requests and WebSockets have in common."""
    parts = urlsplit(url)
    path = quote(parts.path, safe=_SAFE_IN_PATH) or "/"
    query = "&".join(each for each in (quote(parts.query, safe=_SAFE_IN_QUERY), urlencode(params)) if each)
    return {
        "http_version": "1.1",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
    }
