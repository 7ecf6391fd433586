"""One handle call, from the caller's side: an ``Exchange`` whose answer is a future."""

from __future__ import annotations

import asyncio
from typing import Any

from salver.data.current import CallSite
from salver.data.replica_link import ReplicaLink
from salver.data.user_code import MethodMissing, UnexpectedGenerator
from salver.errors import RemoteException, ReplicaUnavailableError, SerializationError
from salver.wire.frames import Buffer, Frame, Kind
from salver.wire.messages import CallMeta, ErrorKind, ErrorMeta, decode_error, encode
from salver.wire.payload import load_exception, load_value


class RemoteTraceback(Exception):
    """The cause of an exception that came from a replica: shows where it was raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}\n"""'


class Call:
    """A call on its way, and its answer.

    Make it anywhere; ``start`` it on the call site's loop. Cancelling ``future`` cancels the call in the replica.

    Args:
        site: how this process reaches deployments.
        key: ``app#deployment``.
        meta: what is called.
    """

    __slots__ = (
        "_key",
        "_link",
        "_meta",
        "_payload",
        "_site",
        "_stream",
        "abandoned",
        "attempts",
        "future",
        "model_id",
        "session_id",
    )

    def __init__(self, site: CallSite, key: str, meta: CallMeta) -> None:
        self._site = site
        self._key = key
        self._meta = meta
        self._payload: Buffer = b""
        self._link: ReplicaLink | None = None
        self._stream = 0
        self.abandoned = False
        self.attempts = 0
        self.model_id = meta.model_id
        self.session_id = meta.session_id
        self.future: asyncio.Future[Any] = site.loop.create_future()
        self.future.add_done_callback(self._answered)

    def start(self, payload: Buffer) -> None:
        """Send it on its way."""
        self._payload = payload
        self._site.caller.submit(self._key, self)

    def _answered(self, future: asyncio.Future[Any]) -> None:
        self._payload = b""
        if future.cancelled():
            self.abandoned = True
            if self._link is not None:
                self._link.cancel(self._stream)
        else:
            future.exception()  # seen: nobody need await a call for its own sake, and the replica has logged it
        self._link = None

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    # --- Exchange ---------------------------------------------------------------------------------------

    @property
    def retryable(self) -> bool:
        return not self.future.done()

    def dispatch(self, link: ReplicaLink, stream: int) -> None:
        self._link = link
        self._stream = stream
        assert link.channel is not None
        link.channel.send(Kind.CALL, stream, encode(self._meta), self._payload)

    def frame_received(self, frame: Frame) -> None:
        if self.future.done():
            return
        if frame.kind == Kind.RESPONSE:
            try:
                value = load_value(frame.payload)
            except SerializationError as error:
                self.future.set_exception(error)
            else:
                self.future.set_result(value)
        elif frame.kind == Kind.ERROR:
            self.future.set_exception(rebuild_error(decode_error(frame.meta), frame.payload))

    def replica_lost(self, replica_id: str) -> None:
        self.fail(ReplicaUnavailableError(replica_id))

    def refused(self, error: Exception) -> None:
        self.fail(error)


def rebuild_error(meta: ErrorMeta, payload: Buffer) -> BaseException:
    """The exception of an ERROR frame: the user's own class where it survived the journey."""
    if meta.kind == ErrorKind.NO_METHOD:
        return MethodMissing(meta.message)
    if meta.kind == ErrorKind.GENERATOR:
        return UnexpectedGenerator(meta.message)
    is_ours = meta.kind == ErrorKind.SERIALIZATION
    error = SerializationError(meta.message) if is_ours else load_exception(payload)
    if not isinstance(error, Exception) or isinstance(error, StopIteration):  # SystemExit must not end the caller
        error = RemoteException(f"{meta.type_name}: {meta.message}")
    error.__cause__ = RemoteTraceback(meta.traceback)
    return error


_owned: set[asyncio.Task[None]] = set()


def own(task: asyncio.Task[None]) -> None:
    """Keep a task alive until it ends; its coroutine handles its own errors."""
    _owned.add(task)
    task.add_done_callback(_owned.discard)
