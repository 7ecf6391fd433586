"""The applications with no framework at all: what one process with uvloop and httptools can do.

uvicorn bare_asgi:noop --app-dir benchmarks/apps --loop uvloop --http httptools --no-access-log
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

TEXT = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"5")]
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]
CHUNK = b"data: token\n\n"


async def noop(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads no body, as the requests measured have none."""
    await send({"type": "http.response.start", "status": 200, "headers": TEXT})
    await send({"type": "http.response.body", "body": b"hello"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    parts: list[bytes] = []
    more = True
    while more:
        message: Message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(parts)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def stream(chunks: int) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        for _ in range(chunks):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


stream_50, stream_1000 = stream(50), stream(1000)
