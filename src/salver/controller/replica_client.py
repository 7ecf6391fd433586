"""The controller's conversation with one replica: control requests over a channel like everybody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from salver.controller.metrics_store import MetricsStore
from salver.data.channel import Channel, Connect
from salver.data.replica.replica import CONTROLLER
from salver.errors import ServeException
from salver.wire.frames import Frame, Kind
from salver.wire.messages import (
    PROTOCOL_VERSION,
    Control,
    ErrorKind,
    Hello,
    Report,
    decode_error,
    decode_report,
    encode,
)

_LAST_WORDS_S = 1.0


class ReplicaRefused(ServeException):
    """The replica answered with an error: the user's traceback.

    Attributes:
        kind: an ``ErrorKind``; of Initialize the step that failed.
    """

    def __init__(self, message: str, kind: str = ErrorKind.USER) -> None:
        super().__init__(message)
        self.kind = kind


class ReplicaGone(ServeException):
    """The connection to the replica broke or could not be made."""


class ReplicaClient:
    """One channel to one replica, dialled with the first request.

    Args:
        connect, address: how the replica is reached.
        key: the instance's session key.
        metrics: where those that the replica pushes go; None to ignore them.
        on_report: told what the replica says unasked; again with every new connection. None to ignore it.
    """

    def __init__(
        self,
        connect: Connect,
        address: str,
        key: bytes,
        metrics: MetricsStore | None = None,
        on_report: Callable[[Report], None] | None = None,
    ) -> None:
        self._connect = connect
        self._address = address
        self._metrics = metrics
        self._on_report = on_report
        self._hello = Hello(PROTOCOL_VERSION, key, CONTROLLER)
        self._channel: Channel | None = None
        self._dialling = asyncio.Lock()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._next_stream = 1

    async def ask(self, message: Control) -> bytes:
        """Send and wait for the answer, as long as the connection lasts.

        Returns:
            The metadata of the answer.

        Raises:
            ReplicaRefused: it answered with an error.
            ReplicaGone: there is no replica to answer.
        """
        channel = await self._connected()
        stream = self._next_stream
        self._next_stream += 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[stream] = answer
        channel.send(Kind.CONTROL, stream, b"", encode(message))
        try:
            return await answer
        finally:
            self._answers.pop(stream, None)

    async def _connected(self) -> Channel:
        async with self._dialling:
            if self._channel is None:
                try:
                    self._channel = await self._connect(self._address, lambda: Channel(self, hello=self._hello))
                except OSError as error:
                    raise ReplicaGone(f"the replica cannot be reached: {error.strerror or error}") from error
            return self._channel

    def process_ended(self) -> None:
        """Take what it said last, which may be here before or after the news of its end; then close."""
        if self._channel is not None:
            asyncio.get_running_loop().call_later(_LAST_WORDS_S, self.close)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()

    # --- Receiver ---------------------------------------------------------------------------------------

    def frame_received(self, channel: Channel, frame: Frame) -> None:
        if frame.kind == Kind.METRICS:
            if self._metrics is not None:
                self._metrics.received(channel, bytes(frame.meta).decode(), bytes(frame.payload))
            return
        if frame.kind == Kind.REPORT:
            if self._on_report is not None:
                self._on_report(decode_report(frame.meta))
            return
        answer = self._answers.get(frame.stream)
        if answer is None or answer.done():
            return
        if frame.kind == Kind.RESPONSE:
            answer.set_result(frame.meta)
        elif frame.kind == Kind.ERROR:
            meta = decode_error(frame.meta)
            text = meta.traceback or f"{meta.type_name}: {meta.message}"
            answer.set_exception(ReplicaRefused(text, meta.kind))

    def channel_lost(self, channel: Channel) -> None:
        self._channel = None
        if self._metrics is not None:
            self._metrics.lost(channel)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ReplicaGone("the connection to the replica broke"))
