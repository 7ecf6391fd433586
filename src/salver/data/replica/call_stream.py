"""The answer of a handle call that streams, inside the replica: one DATA frame per item of a generator.

HEAD when the generator exists, an item at once when it is yielded, as far as the caller has granted credit, and DATA
with END after the last one. A consumer that does not take its items stops the generator. Whatever ends the stream
early (the caller's CANCEL, an item that cannot be pickled) closes the generator, so that its ``finally`` blocks run.

An asynchronous generator runs on the loop. A synchronous one runs from its first line to its last in one thread of
the user's pool, which waits for credit there: code between two items may rely on thread-local state (a transaction,
``torch.no_grad()``), so a thread per item would break it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

from salver.data.channel import Channel
from salver.data.replica.user_code import UserCode
from salver.data.shared_memory import SharedPayload, share
from salver.wire.frames import END, Buffer, Frame, Kind
from salver.wire.messages import STREAM_WINDOW_BYTES, decode_credit
from salver.wire.payload import dump_value


class CallStream:
    """The stream of one call, from the replica's side.

    Args:
        channel, stream: where the answer goes.
    """

    __slots__ = ("_channel", "_closed", "_granted", "_loop", "_room", "_sent", "_stream", "_wakeup")

    def __init__(self, channel: Channel, stream: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = channel
        self._stream = stream
        self._granted = STREAM_WINDOW_BYTES
        """Written by the loop only, as ``_sent`` is by the generator only: neither needs a lock."""
        self._sent = 0
        self._closed = False
        self._wakeup: asyncio.Future[None] | None = None
        self._room = threading.Event()

    # --- from the channel -------------------------------------------------------------------------------

    def body_received(self, frame: Frame) -> None:
        """A handle call has no body."""

    def credit_received(self, frame: Frame) -> None:
        self._granted += decode_credit(frame.meta)
        self._wake()

    def disconnect(self) -> None:
        """Nobody wants more items: the generator is closed at its next ``yield``."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._room.set()
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    # --- items ------------------------------------------------------------------------------------------

    async def send_all(self, items: Any, user: UserCode, method: str) -> None:
        """Send every item and the end; raises what the generator raises."""
        self._channel.send(Kind.HEAD, self._stream)
        name = f"{user.name}.{method}"
        try:
            if hasattr(items, "__anext__"):
                await self._send_async(items, name)
            else:
                await user.in_thread(self._send_sync, items, name)
        finally:
            self.disconnect()
        self._channel.send(Kind.DATA, self._stream, flags=END)

    async def _send_async(self, items: AsyncGenerator[Any, None], name: str) -> None:
        number = 0
        try:
            async for item in items:
                number += 1
                self._send(dump_value(item, f"item {number} of {name}", share))
                while self._sent >= self._granted:
                    self._wakeup = self._loop.create_future()
                    await self._wakeup
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()

    def _send_sync(self, items: Generator[Any, None, None], name: str) -> None:
        number = 0
        try:
            for item in items:
                number += 1
                payload = dump_value(item, f"item {number} of {name}", share)
                self._loop.call_soon_threadsafe(self._channel.send_value, Kind.DATA, self._stream, payload)
                self._sent += len(payload)
                if not self._wait_for_room():
                    return
        finally:
            if hasattr(items, "close"):
                items.close()

    def _send(self, payload: Buffer | SharedPayload) -> None:
        self._channel.send_value(Kind.DATA, self._stream, payload)
        self._sent += len(payload)

    def _wait_for_room(self) -> bool:
        """In the thread: wait until more may be sent; False when nobody wants more.

        It always ends: ``send_all`` disconnects when its task ends, whatever ended it.
        """
        while True:
            self._room.clear()  # before looking: what is set after the look must not be lost
            if self._closed:
                return False
            if self._sent < self._granted:
                return True
            self._room.wait()
