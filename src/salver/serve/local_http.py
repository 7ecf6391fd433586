"""HTTP for applications that were run with ``serve.run(app, local=True)``: no socket, the same answers.

The methods are those that users of ``requests`` and ``httpx`` know, as far as tests need them. Test clients that
speak ASGI themselves take ``LocalClient.asgi``: ``httpx.AsyncClient(transport=httpx.ASGITransport(client.asgi))``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from salver.data.asgi import Message, Scope
from salver.data.asgi_ingress import ASGIIngress
from salver.errors import ServeException
from salver.serve.local_testing import LocalTestingSession
from salver.serve.session import current_session


class LocalResponse:
    """An answer.

    Attributes:
        status_code: HTTP status.
        headers: by name in lower case; of several with one name the last.
        content: the body.
        chunks: the body in the pieces in which the application sent it.
    """

    def __init__(self, status_code: int, headers: list[tuple[bytes, bytes]], chunks: list[bytes]) -> None:
        self.status_code = status_code
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        self.chunks = chunks
        self.content = b"".join(chunks)

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.content.decode()

    def json(self) -> Any:
        """The body as JSON. Raises ValueError when it is none."""
        return json.loads(self.content)

    def __repr__(self) -> str:
        return f"<LocalResponse [{self.status_code}]>"


class LocalClient:
    """Sends requests to the applications of this process's local testing session.

    Args:
        session: of ``serve.run(app, local=True)``.
        timeout_s: for one request; then TimeoutError, and the request is cancelled as if its client had left.
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
        body = content.encode() if isinstance(content, str) else content or b""
        fields = dict(headers or {})
        if json is not None:
            body = _json_bytes(json)
            fields.setdefault("content-type", "application/json")
        work = self._exchange(_scope(method, url, params, fields), body)
        return self._session.run(work, self._timeout_s)

    async def _exchange(self, scope: Scope, body: bytes) -> LocalResponse:
        start: Message = {}
        chunks: list[bytes] = []
        sent = False
        never = asyncio.Event()

        async def receive() -> Message:
            nonlocal sent
            if sent:
                await never.wait()  # the client stays until it has the answer
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["body"]:
                chunks.append(message["body"])

        async with asyncio.timeout(self._timeout_s):
            await self.asgi(scope, receive, send)
        return LocalResponse(start["status"], start["headers"], chunks)


def client_of_this_process(timeout_s: float) -> LocalClient:
    """Raises ServeException when this process runs no local testing session."""
    session = current_session()
    if not isinstance(session, LocalTestingSession):
        raise ServeException("There is no local testing session: call serve.run(app, local=True) first.")
    return LocalClient(session, timeout_s)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def _scope(method: str, url: str, params: Mapping[str, str] | None, headers: Mapping[str, str]) -> Scope:
    parts = urlsplit(url)
    query = "&".join(each for each in (parts.query, urlencode(params or {})) if each)
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method.upper(),
        "scheme": "http",
        "path": unquote(parts.path) or "/",
        "raw_path": (parts.path or "/").encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
    }
