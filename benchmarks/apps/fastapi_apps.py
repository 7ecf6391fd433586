"""The applications as FastAPI routes, each in an application of its own.

uvicorn fastapi_apps:noop --app-dir benchmarks/apps --loop uvloop --http httptools --no-access-log
"""

from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

__all__ = ["echo", "fastapi", "noop", "stream_50", "stream_1000", "sync"]

noop, sync, echo, stream_50, stream_1000, fastapi = (FastAPI() for _ in range(6))


@noop.get("/", response_class=PlainTextResponse)
async def answer() -> str:
    return "hello"


@sync.get("/", response_class=PlainTextResponse)
def answer_in_thread() -> str:
    return "hello"


@echo.post("/")
async def answer_body(request: Request) -> Response:
    return Response(await request.body(), media_type="application/json")


@fastapi.get("/")
async def echo_text(text: str = "hello") -> str:
    """`fastapi_ingress` without the child."""
    return text


async def events(chunks: int) -> AsyncIterator[bytes]:
    for _ in range(chunks):
        yield b"data: token\n\n"


@stream_50.get("/")
async def answer_50() -> StreamingResponse:
    return StreamingResponse(events(50), media_type="text/event-stream")


@stream_1000.get("/")
async def answer_1000() -> StreamingResponse:
    return StreamingResponse(events(1000), media_type="text/event-stream")
