"""The supervisor's conversation with the controller of the moment."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable

from salver.engine.local.link import MessageReader, ToController, ToSupervisor, encode_message


class ControllerLink:
    """One socket pair per controller; between two controllers there is none.

    Args:
        selector: watches our end; its data is called when there is something to read.
        obey: told of each message.
    """

    def __init__(self, selector: selectors.BaseSelector, obey: Callable[[ToSupervisor], None]) -> None:
        self._selector = selector
        self._obey = obey
        self._socket: socket.socket | None = None
        self._reader: MessageReader[ToSupervisor] = MessageReader(ToSupervisor)

    def open(self) -> tuple[socket.socket, socket.socket]:
        """A new pair: our end, which the new controller must not keep, and the controller's, which we must not."""
        self.drop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # a controller that has stopped reading must not stop us too
        self._socket = ours
        self._reader = MessageReader(ToSupervisor)
        self._selector.register(ours, selectors.EVENT_READ, self._read)
        return ours, theirs

    @property
    def socket(self) -> socket.socket | None:
        """Our end, while there is a controller."""
        return self._socket

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
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        if self._socket is None:  # dropped a moment ago, for something else that was noticed at the same time
            return
        try:
            data = self._socket.recv(256 * 1024)
        except ConnectionError:
            data = b""
        if not data:
            self.drop()
            return
        for message in self._reader.feed(data):
            self._obey(message)
