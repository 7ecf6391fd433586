"""What a service manager says to a process that it starts, and hears from it: systemd's two protocols, by hand.

Sockets: the manager may have bound them before (``LISTEN_FDS``), so that clients wait instead of being refused while
nothing runs. News: datagrams of ``NAME=value`` lines to the socket in ``NOTIFY_SOCKET``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from salver.errors import StartupError

_FIRST_FD = 3


class ServiceManager:
    """The one that started this process, or none: then there are no sockets, and nobody is told anything.

    What it said is taken out of the environment: it is not for the processes that we start.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._news = environment.pop("NOTIFY_SOCKET", "")
        for_pid, count, names = (environment.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
        self._count = int(count) if for_pid == str(os.getpid()) and count.isdecimal() else 0
        self._names = names.split(":")

    @property
    def exists(self) -> bool:
        return bool(self._news or self._count)

    def tell(self, *news: str) -> None:
        """``READY=1``, ``STOPPING=1``, ``STATUS=...``. A manager that does not listen is none of our troubles."""
        if not self._news.startswith(("/", "@")):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            try:
                address = "\0" + self._news[1:] if self._news[0] == "@" else self._news
                sender.sendto("\n".join(news).encode(), address)
            except OSError:
                pass

    def sockets(self) -> dict[str, list[socket.socket]]:
        """The listening sockets that it passed, as ``http`` and, those of that name, ``admin``. To be asked once.

        Raises:
            StartupError: one of them is no listening TCP socket.
        """
        found: dict[str, list[socket.socket]] = {"http": [], "admin": []}
        for number in range(self._count):
            is_admin = number < len(self._names) and self._names[number] == "admin"
            found["admin" if is_admin else "http"].append(_adopt(_FIRST_FD + number))
        self._count = 0
        return found


def _adopt(descriptor: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=descriptor)
        listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartupError(f"the service manager passed no socket as descriptor {descriptor}: {error}") from error
    if not listens or adopted.family not in {socket.AF_INET, socket.AF_INET6}:
        raise StartupError(
            f"descriptor {descriptor} of the service manager is no listening TCP socket: "
            "the socket unit needs ListenStream= with a port"
        )
    adopted.set_inheritable(False)
    return adopted
