"""What this process inherited as its stdout or stderr: a terminal, a pipe, a service manager's socket, a file.

Its reader may stop at any time, and it is shared: making it non-blocking would do that to everybody who has it. A
pipe or a terminal can be opened once more through ``/proc``, though, which gives a description of our own that can be
non-blocking; on a socket each single call can be. What remains may block, and is left to a thread.

Lines of several processes meet here. The kernel keeps a write of up to 4 KiB to a pipe in one piece, so longer texts
are cut between lines.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable, Generator

_PIECE = select.PIPE_BUF
_WAITS = (BlockingIOError, InterruptedError)


class Terminal:
    """An outlet of log lines.

    Args:
        descriptor: 1 or 2.
    """

    def __init__(self, descriptor: int) -> None:
        self.name = "stderr" if descriptor == 2 else "stdout"
        self._descriptor = descriptor
        self._write: Callable[[bytes], int] | None = None
        self._close: Callable[[], None] | None = None
        try:
            self._write = self._open(os.fstat(descriptor).st_mode)
        except OSError:
            pass  # closed, another user's, or nobody reads it: each write will say so

    def _open(self, mode: int) -> Callable[[bytes], int] | None:
        """How to write without waiting, if there is a way."""
        if stat.S_ISSOCK(mode):
            connected = socket.socket(fileno=os.dup(self._descriptor))
            self._close = connected.close
            return lambda data: connected.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if stat.S_ISFIFO(mode) or os.isatty(self._descriptor):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            self._descriptor = own = os.open(f"/proc/self/fd/{self._descriptor}", flags)
            self._close = lambda: os.close(own)
            return lambda data: os.write(own, data)
        return None

    def say(self, data: bytes) -> None:
        """Once and no more: what it cannot take now is lost."""
        if self._write is not None:
            self.write_now(data)
            return
        try:
            os.write(self._descriptor, data)
        except OSError:
            pass

    def write_now(self, data: bytes) -> int:
        if self._write is None:
            return 0
        written = 0
        try:
            for piece in _pieces(data):
                done = self._write(piece)
                written += done
                if done < len(piece):
                    break
        except OSError:
            pass  # also what is no reason to wait, like EPIPE: who writes the rest will meet it
        return written

    def write(self, data: bytes) -> None:
        if self._write is None:
            while data:
                data = data[os.write(self._descriptor, data) :]
            return
        for piece in _pieces(data):
            self._write_piece(piece, self._write)

    def _write_piece(self, piece: bytes, write: Callable[[bytes], int]) -> None:
        while piece:
            try:
                piece = piece[write(piece) :]
            except _WAITS:
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()

    def forked(self) -> None:
        """A description may be shared."""

    def close(self) -> None:
        """The process's own descriptor stays. Not to be used after this."""
        if self._close is not None:
            self._close()
            self._write = self._close = None


def _pieces(data: bytes) -> Generator[bytes]:
    """Parts of at most 4 KiB, whole lines as far as they are not longer."""
    start = 0
    while len(data) - start > _PIECE:
        end = data.rfind(b"\n", start, start + _PIECE) + 1 or start + _PIECE
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:]
