"""The replicas among the supervisor's children, and what each of them has in the instance's folder."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from salver.data.load_board import SLOTS, clear_slot
from salver.engine.interface import Exited, NotStarted, ReplicaProcess, Started
from salver.engine.local.children import Child, Children
from salver.engine.local.client import stack_file
from salver.engine.local.instance import Instance
from salver.engine.local.roles import run_replica
from salver.engine.local.settings import BACKLOG

_CRASHES = frozenset(f"killed by SIG{name}" for name in ("SEGV", "ABRT", "BUS", "FPE", "ILL"))
_STACK_CHARACTERS = 8000


class ReplicaChildren:
    """Starts them and clears up after them.

    Args:
        instance, key: whose replicas they are, and its session key.
        gpus: all that the instance may give to replicas.
        children: where they are forked.
        private: descriptors of this process that they must not keep.
    """

    def __init__(
        self,
        instance: Instance,
        key: bytes,
        gpus: tuple[int, ...],
        children: Children,
        private: Callable[[], list[int]],
    ) -> None:
        self._instance = instance
        self._key = key
        self._gpus = gpus
        self._children = children
        self._private = private
        self._by_id: dict[str, Child] = {}

    def find(self, replica_id: str) -> Child | None:
        return self._by_id.get(replica_id)

    def running(self) -> tuple[ReplicaProcess, ...]:
        """All that have not been reaped, with their ages of now."""
        now = time.monotonic()
        return tuple(
            replace(child.replica, age_s=now - child.started_at)
            for child in self._by_id.values()
            if child.replica is not None
        )

    def start(self, process: ReplicaProcess) -> Started | NotStarted:
        """Fork it, unless it runs."""
        existing = self._by_id.get(process.replica_id)
        if existing is not None:
            assert existing.replica is not None
            return Started(existing.replica)
        if process.slot >= SLOTS:
            return NotStarted(process.replica_id, f"an instance holds at most {SLOTS} replicas")
        try:
            return Started(self._fork(process))
        except OSError as error:
            return NotStarted(process.replica_id, f"could not fork: {error.strerror}")

    def _fork(self, process: ReplicaProcess) -> ReplicaProcess:
        """Bind its socket first: whoever dials from now on waits in the backlog until the replica is up."""
        path = self._socket_path(process.replica_id)
        path.unlink(missing_ok=True)
        clear_slot(self._instance.board, process.slot)
        instance, key, gpus = self._instance, self._key, self._gpus
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen(BACKLOG)
            child = self._children.fork(
                "replica",
                f"salver: replica {process.replica_id}",
                lambda: run_replica(instance, key, process, listening, gpus),
                close=self._private(),
                replica=process,
            )
        child.replica = replace(process, pid=child.pid, address=f"unix:{path}")
        self._by_id[process.replica_id] = child
        return child.replica

    def ended(self, replica_id: str, cause: str) -> Exited:
        """Remove what it leaves in the folder; what is to be told of its end."""
        child = self._by_id.pop(replica_id)
        self._socket_path(replica_id).unlink(missing_ok=True)
        return Exited(replica_id, cause, self._take_stack(replica_id, cause), child.exit_code)

    def _socket_path(self, replica_id: str) -> Path:
        return self._instance.replica_sockets / replica_id.rsplit("#", 1)[-1]

    def _take_stack(self, replica_id: str, cause: str) -> str:
        """What faulthandler wrote when it crashed; the file goes with the replica."""
        path = stack_file(self._instance.folder, replica_id)
        try:
            return path.read_text(errors="replace")[-_STACK_CHARACTERS:] if cause in _CRASHES else ""
        except OSError:
            return ""
        finally:
            path.unlink(missing_ok=True)
