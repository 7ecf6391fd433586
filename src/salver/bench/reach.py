"""The server at the other end: its address, found once, and the way to it.

Names are resolved before the first request, and the first address that accepts a connection is the one that is used:
a resolver in every connection's way would be measured, too.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

from salver.bench import failure
from salver.bench.request import Request
from salver.errors import ServeException


class NoServerError(ServeException):
    """There is nothing to measure: nobody answers at that address, or not as its URL says."""


class Server:
    """Where connections go.

    Args:
        address: an IP address.
        tls: how to greet it; None for plain TCP.
        name: that its certificate must have.
    """

    def __init__(self, address: str, port: int, tls: ssl.SSLContext | None, name: str) -> None:
        self._address = address
        self._port = port
        self._tls = tls
        self._name = name if tls is not None else None

    async def connect(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Connect ``protocol()``. Raises OSError; ssl.SSLError is one."""
        await asyncio.get_running_loop().create_connection(
            protocol, self._address, self._port, ssl=self._tls, server_hostname=self._name
        )


async def reach(request: Request, tls: ssl.SSLContext | None, timeout_s: float) -> Server:
    """The server of ``request``, after one connection to it that carries nothing.

    Raises:
        NoServerError: there is none, in words.
    """
    where = f"{request.host}:{request.port}"
    problem = "it has no address"
    try:
        async with asyncio.timeout(timeout_s):
            for address in await _addresses(request.host, request.port):
                server = Server(address, request.port, tls, request.host)
                try:
                    await server.connect(_Caller)
                except OSError as error:
                    problem = _words(error)
                else:
                    return server
    except TimeoutError:
        problem = f"it accepts no {'TLS ' if tls is not None else ''}connection within {timeout_s:g} s"
    except socket.gaierror as error:
        problem = f"no address is known for that name ({error.strerror})"
    raise NoServerError(f"no server at {where}: {problem}.")


class _Caller(asyncio.Protocol):
    """Hangs up when it is through."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def _addresses(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message} (--ca FILE trusts it, --insecure asks nobody)"
    if isinstance(error, ssl.SSLError):
        return f"{failure.of_dial(error).words} ({error.reason or error})"
    return failure.of_dial(error).words
