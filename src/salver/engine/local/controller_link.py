"""The supervisor's conversation with the controller of the moment."""

from __future__ import annotations

import socket
from collections.abc import Callable

from salver.engine.local.link import MessageReader, ToController, ToSupervisor, encode_message
from salver.engine.local.selector_loop import SelectorLoop


class ControllerLink:
    """One socket pair per controller; between two controllers there is none.

    Args:
        loop: watches our end.
        obey: told of each message.
    """

    def __init__(self, loop: SelectorLoop, obey: Callable[[ToSupervisor], None]) -> None:
        self._loop = loop
        self._obey = obey
        self._socket: socket.socket | None = None
        self._reader: MessageReader[ToSupervisor] = MessageReader(ToSupervisor)

    def open(self) -> socket.socket:
        """A new pair; the controller's end of it, which we must not keep when the controller is forked."""
        self.drop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # a controller that has stopped reading must not stop us too
        self._socket = ours
        self._reader = MessageReader(ToSupervisor)
        self._loop.watch(ours, self._read)
        return theirs

    def tell(self, message: ToController) -> None:
        """Events for a controller that is away are not kept: its successor asks what runs.

        One that does not read them is let go; it ends when it finds out.
        """
        if self._socket is not None:
            try:
                self._socket.sendall(encode_message(message))
            except OSError:
                self.drop()

    def drop(self) -> None:
        """The controller is gone. May be called twice."""
        if self._socket is not None:
            self._loop.forget(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(256 * 1024)
        except ConnectionError:
            data = b""
        if not data:
            self.drop()
            return
        for message in self._reader.feed(data):
            self._obey(message)
