"""The control API: everything that a person can ask of an instance, as HTTP.

On a Unix socket for this user always: who may connect is decided by the socket's folder (0700) and by the peer's user
id, before a byte of a request is read. On TCP only when asked, and then with a token, behind everything in ``guard``.
Answers are JSON. Applications that code has built come as msgpack records with that code as opaque bytes, on the Unix
socket only; over the network an application is named by a config.
"""

from salver.controller.api.server import ControlServer

__all__ = ["ControlServer"]
