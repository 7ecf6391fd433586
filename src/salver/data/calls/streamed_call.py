"""A handle call that streams, from the caller's side: the items that came and were not taken yet.

HEAD says that the generator exists, every DATA is one item, DATA with END is the end. What consumers take is granted
to the replica again as CREDIT, so never more than a window (and one item) waits here, however slow they are. Items
stay pickled until they are taken: that cost is the consumer's, in its own thread.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from msgspec import field

from salver.data.calls.call import OutgoingCall
from salver.data.calls.errors import rebuild_error
from salver.data.shared_memory import ReceivedPayload
from salver.errors import SerializationError
from salver.wire.frames import END, SHARED, Buffer, Frame, Kind
from salver.wire.messages import STREAM_WINDOW_BYTES, decode_error, encode_credit
from salver.wire.payload import load_value

_GRANT_AT_MOST_BYTES = 2**32 - 1
_GRANT_FROM_BYTES = STREAM_WINDOW_BYTES // 4  # what has been taken is granted in steps worth a frame


class StreamedCall(OutgoingCall):
    """A call whose answer is many items. Several consumers share them: each item goes to one."""

    _items: deque[Buffer | ReceivedPayload] = field(default_factory=deque[Buffer | ReceivedPayload])
    _owed: int = 0
    _begun: bool = False
    _taking: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> Buffer | ReceivedPayload | None:
        """The next item, pickled; empty after the last one, None when it has yet to come. For any thread.

        Raises what the generator raised, after the items before that; or why there is no answer.
        """
        done = self.done  # read first: what came before the end is in the deque then
        with self._taking:
            if self._items:
                payload = self._items.popleft()
                self._owed += len(payload)
                if self._owed >= _GRANT_FROM_BYTES and not done:
                    self.site.run(self._grant, self._owed)
                    self._owed = 0
                return payload
        if not done:
            return None
        self.raise_error()
        return b""

    def load(self, item: Buffer | ReceivedPayload) -> Any:
        """What was taken, unpickled. Raises SerializationError when it cannot be rebuilt here."""
        try:
            return item.load() if isinstance(item, ReceivedPayload) else load_value(item)
        except SerializationError as error:
            raise self._unreadable(error, "an item") from error

    def _grant(self, size: int) -> None:
        while size and self._link is not None and self._link.channel is not None:
            step = min(size, _GRANT_AT_MOST_BYTES)
            self._link.channel.send(Kind.CREDIT, self._stream, encode_credit(step))
            size -= step

    def cancel(self) -> None:
        """As for every call; items that were not taken are dropped."""
        if not self.done:
            self._items.clear()
        super().cancel()

    def _has_news(self) -> bool:
        return self.done or bool(self._items)

    # --- Exchange ---------------------------------------------------------------------------------------

    @property
    def retryable(self) -> bool:
        return not self.done and not self._begun

    def frame_received(self, frame: Frame) -> None:
        if self.done:
            return
        if frame.kind == Kind.DATA:
            if frame.flags & END:
                self._end(None)
            else:
                self._item_received(frame)
        elif frame.kind == Kind.HEAD:
            self._begun = True
        elif frame.kind == Kind.ERROR:
            self._end(rebuild_error(decode_error(frame.meta), frame.payload, self.request_id))

    def _item_received(self, frame: Frame) -> None:
        try:
            self._items.append(ReceivedPayload(frame.payload) if frame.flags & SHARED else frame.payload)
        except SerializationError as error:
            self._give_up(self._unreadable(error, "an item"))
        else:
            self._release_waiters()
