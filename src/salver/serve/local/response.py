"""Answers of applications that were run with ``serve.run(app, local=True)``: whole ones, and ones that stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from salver.serve.local.exchange import LocalExchange

Headers = list[tuple[bytes, bytes]]


def headers_by_name(headers: Headers) -> dict[str, str]:
    """Names in lower case; of several with one name the last."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


class LocalResponse:
    """An answer.

    Attributes:
        status_code: HTTP status.
        headers: by name in lower case; of several with one name the last.
        content: the body.
        chunks: the body in the pieces in which the application sent it.
    """

    def __init__(self, status_code: int, headers: Headers, chunks: list[bytes]) -> None:
        self.status_code = status_code
        self.headers = headers_by_name(headers)
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


class LocalStream:
    """An answer that has begun; what is left of it when its ``with`` ends is cancelled.

    Args:
        exchange: has been started; the answer's head is awaited. Raises as ``iter_bytes`` does.

    Attributes:
        status_code: HTTP status.
        headers: by name in lower case; of several with one name the last.
    """

    def __init__(self, exchange: LocalExchange) -> None:
        self._exchange = exchange
        start = exchange.next()
        if start is None:
            raise ConnectionError("the session ended before the answer came")
        self.status_code: int = start["status"]
        self.raw_headers: Headers = start["headers"]
        self.headers = headers_by_name(self.raw_headers)

    def iter_bytes(self) -> Iterator[bytes]:
        """The pieces of the body, each as soon as the application has sent it.

        Raises:
            TimeoutError: the next one did not come in time.
            ConnectionError: the application failed in the middle of its answer.
        """
        while (message := self._exchange.next()) is not None:
            if message["body"]:
                yield message["body"]

    def read(self) -> bytes:
        """What is left of the body. Raises as ``iter_bytes`` does, with the time for each piece."""
        return b"".join(self.iter_bytes())

    def __repr__(self) -> str:
        return f"<LocalStream [{self.status_code}]>"
