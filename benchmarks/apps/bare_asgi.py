"""The answer of `noop.py` with no framework at all: what one process with uvloop and httptools can do.

uvicorn bare_asgi:app --app-dir benchmarks/apps --loop uvloop --http httptools --no-access-log
"""

from starlette.types import Receive, Scope, Send

HEADERS = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"5")]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers any HTTP request with `hello`; reads no body, as the requests measured have none."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"hello"})
