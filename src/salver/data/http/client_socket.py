"""What the kernel knows of a client's connection and asyncio does not tell.

A transport's own buffer says little about a slow reader: the kernel's may hold megabytes more. And of a client that
leaves while nobody reads from it, only the kernel hears.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import cast

_TCP_ESTABLISHED = 1
_RESET = struct.pack("ii", 1, 0)


def unread_bytes(transport: asyncio.Transport) -> int:
    """Bytes that were written and that the client has not taken: the transport's, and the kernel's."""
    connected: socket.socket | None = transport.get_extra_info("socket")
    of_kernel = 0 if connected is None else struct.unpack("i", ioctl(connected, TIOCOUTQ, bytes(4)))[0]
    return transport.get_write_buffer_size() + of_kernel


def is_connected(transport: asyncio.Transport) -> bool:
    """Whether the client has neither hung up nor ended its side."""
    connected: socket.socket = transport.get_extra_info("socket")
    return connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED


def reset(transport: asyncio.Transport) -> None:
    """End the connection so that the client sees an error, not an end; what it has not read may be lost."""
    connected: socket.socket = transport.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def address(value: object) -> tuple[str, int] | None:
    """Host and port of a ``peername`` or ``sockname``; None for other kinds of sockets."""
    if isinstance(value, tuple):
        pair = cast("tuple[object, ...]", value)
        if len(pair) >= 2 and isinstance(pair[0], str) and isinstance(pair[1], int):
            return pair[0], pair[1]
    return None
