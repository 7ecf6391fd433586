"""How a Response of Starlette's that a handler returned is sent.

A response sends itself, as an ASGI application. What the two usual kinds would send is known, though: those of them
whose class leaves it at that are sent from here, without a message and a coroutine for each piece.
"""

from __future__ import annotations

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from salver.data.http.response import encode_header_block
from salver.data.replica.asgi import WHOLE_AT_MOST, HTTPExchange, build_scope
from salver.wire.messages import RequestMeta


async def send_response(response: Response, meta: RequestMeta, exchange: HTTPExchange) -> None:
    """Answer with ``response``. Raises what its generator or its background task raises, and ClientDisconnect."""
    kind = type(response)
    if kind.__call__ is Response.__call__ and response.background is None and len(response.body) <= WHOLE_AT_MOST:
        block, declared = encode_header_block(response.raw_headers)
        exchange.respond(response.status_code, block, response.body, -1 if declared is None else declared)
        return
    try:
        if isinstance(response, StreamingResponse) and _streams_as_usual(type(response)):
            await _stream(response, exchange)
        else:
            await response(build_scope(meta), exchange.receive, exchange.send)
    finally:
        await _close_body(response)


def _streams_as_usual(kind: type[StreamingResponse]) -> bool:
    usual = StreamingResponse
    return kind.__call__ is usual.__call__ and kind.stream_response is usual.stream_response


async def _stream(response: StreamingResponse, exchange: HTTPExchange) -> None:
    await exchange.send(
        {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    async for chunk in response.body_iterator:
        piece = chunk.encode(response.charset) if isinstance(chunk, str) else chunk
        if type(piece) is not bytes or not exchange.send_piece(piece):
            await _send_slowly(piece, exchange)
    await exchange.send({"type": "http.response.body", "body": b"", "more_body": False})
    if response.background is not None:
        await response.background()


async def _send_slowly(piece: bytes | memoryview, exchange: HTTPExchange) -> None:
    """Send a piece that has to wait for the client, perhaps in vain."""
    try:
        await exchange.send({"type": "http.response.body", "body": piece, "more_body": True})
    except OSError:  # the exchange's, and none of the user's, whom it would tell nothing
        raise ClientDisconnect from None


async def _close_body(response: Response) -> None:
    """End a generator that was not taken to its end; else its ``finally`` would wait for the garbage collector."""
    close = getattr(getattr(response, "body_iterator", None), "aclose", None)
    if close is not None:
        await close()
