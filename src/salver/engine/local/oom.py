"""Whether the kernel has killed for want of memory: SIGKILL alone does not say who sent it.

The kernel counts what it kills for memory in the victim's cgroup: ``memory.events`` in version 2,
``memory.oom_control`` in version 1, both with a line ``oom_kill N``, and counts before it kills. All processes of an
instance are in the cgroup that its supervisor is in, unless somebody moves them; then, as where there is no memory
controller, nothing is known and nothing is said.
"""

from __future__ import annotations

from pathlib import Path

_MEMBERSHIP = Path("/proc/self/cgroup")
_MOUNTS = Path("/sys/fs/cgroup")


class OOMKills:
    """Watches the counter of this process's cgroup.

    Args:
        membership: which cgroups this process is in.
        mounts: where they are mounted.
    """

    def __init__(self, membership: Path = _MEMBERSHIP, mounts: Path = _MOUNTS) -> None:
        self._counter = next((path for path in _candidates(membership, mounts) if _read(path) is not None), None)
        self._count = self._read()

    def happened(self) -> bool:
        """Whether there was one since this was last asked, or since the beginning."""
        before, self._count = self._count, self._read()
        return self._count > before

    def _read(self) -> int:
        return (_read(self._counter) or 0) if self._counter is not None else 0


def _candidates(membership: Path, mounts: Path) -> list[Path]:
    """Where the counter may be. In a container the path is often the host's, and the mount is our own cgroup."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        inside = path.lstrip("/")
        if "memory" in controllers.split(","):
            found += [mounts / "memory" / each / "memory.oom_control" for each in (inside, "")]
        elif not controllers:
            found += [mounts / each / "memory.events" for each in (inside, "")]
    return found


def _read(path: Path) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    counts = [line.removeprefix("oom_kill ") for line in lines if line.startswith("oom_kill ")]
    return int(counts[0]) if counts and counts[0].isdecimal() else None
