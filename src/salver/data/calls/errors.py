"""Exceptions that come from a replica, made into exceptions here."""

from __future__ import annotations

from salver.data.replica.user_code import MethodMissing, UnexpectedGenerator
from salver.errors import RemoteException, RequestCancelledError, SerializationError
from salver.wire.frames import Buffer
from salver.wire.messages import ErrorKind, ErrorMeta
from salver.wire.payload import load_exception


class RemoteTraceback(Exception):
    """The cause of an exception that came from a replica: shows where it was raised there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}\n"""'


def rebuild_error(meta: ErrorMeta, payload: Buffer, request_id: str) -> BaseException:
    """The exception of an ERROR frame: the user's own class where it survived the journey.

    Ours that user code let through (a full queue further on, a deadline) come back as themselves in the same way.
    """
    if meta.kind == ErrorKind.NO_METHOD:
        return MethodMissing(meta.message)
    if meta.kind == ErrorKind.GENERATOR:
        return UnexpectedGenerator(meta.message)
    if meta.kind == ErrorKind.CANCELLED:
        error: BaseException | None = RequestCancelledError(request_id)
    elif meta.kind == ErrorKind.SERIALIZATION:
        error = SerializationError(meta.message)
    else:
        error = load_exception(payload)
    cause = RemoteTraceback(meta.traceback)
    usable = isinstance(error, Exception) and not isinstance(
        error, StopIteration
    )  # SystemExit must not end the caller
    if error is None or not usable or not _takes_cause(error, cause):
        error = RemoteException(f"{meta.type_name}: {meta.message}")
        error.__cause__ = cause
    return error


def _takes_cause(error: BaseException, cause: RemoteTraceback) -> bool:
    """Give it its cause, unless the user's class refuses."""
    try:
        error.__cause__ = cause
    except Exception:  # noqa: BLE001 - a __setattr__ of the user's
        return False
    return True
