"""Who can talk to an instance: every listening socket of its processes, and the modes of its files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.instance import SalverRun, command_line
from harness.worker import WORKER

_TCP_LISTEN = "0A"
_UNIX_ACCEPTS = 0x10000


def sockets_of(pids: list[int]) -> set[str]:
    """The inode numbers of all sockets that the processes hold."""
    inodes: set[str] = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(entry)
            if target.startswith("socket:["):
                inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    return inodes


def internet_listeners(pids: list[int]) -> set[str]:
    """``tcp 127.0.0.1:8000``; a UDP socket listens when it exists."""
    held = sockets_of(pids)
    found: set[str] = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if rest[5] in held and (state == _TCP_LISTEN or protocol.startswith("udp")):
                address, _, port = local.partition(":")
                found.add(f"{protocol} {_dotted(address)}:{int(port, 16)}")
    return found


def _dotted(address: str) -> str:
    """An IPv4 address from its little-endian hexadecimal form; others as they are."""
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(address))) if len(address) == 8 else address


def unix_listeners(pids: list[int]) -> list[str]:
    """The paths of Unix sockets that accept connections; names in the abstract namespace begin with @."""
    held = sockets_of(pids)
    found: list[str] = []
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split()
        if inode in held and int(flags, 16) & _UNIX_ACCEPTS:
            found.append(path[0] if path else "")
    return sorted(found)


def test_nothing_listens_but_what_must(worker_run: Callable[..., SalverRun]) -> None:
    run = worker_run(replicas=2)
    everything = run.processes()
    assert internet_listeners(everything) == {f"tcp 127.0.0.1:{run.port}"}
    own = [str(run.folder / "control.sock"), str(run.folder / "routing.sock")]
    replicas = [str(run.folder / "r" / each["replica_id"].rpartition("#")[2]) for each in replicas_of(run)]
    assert unix_listeners(everything) == sorted(own + replicas)


def test_a_replica_holds_no_socket_that_others_listen_on(worker_run: Callable[..., SalverRun]) -> None:
    """User code runs there: it must not be able to answer in the name of the ingress or of the controller."""
    run = worker_run(replicas=2)
    for replica in replicas_of(run):
        assert internet_listeners([replica["pid"]]) == set()
        assert unix_listeners([replica["pid"]]) == [str(run.folder / "r" / replica["replica_id"].rpartition("#")[2])]


def replicas_of(run: SalverRun) -> list[dict[str, Any]]:
    return run.status()["applications"]["default"]["deployments"]["Worker"]["replicas"]


def test_the_files_are_for_this_user_only(tmp_path: Path) -> None:
    """Under a umask that would open them to everybody."""
    (tmp_path / "app.py").write_text(WORKER.replace("REPLICAS", "1"))
    salver = command_line(("salver",))[0]
    command = f"umask 000; exec {salver} run app:app --port 0"
    run = SalverRun.start("sh", "-c", command, cwd=tmp_path)
    try:
        paths = [run.folder.parent, run.folder, *run.folder.rglob("*")]
        assert {path.name for path in paths} >= {"salver", "r", "control.sock", "routing.sock", "session.key", "lock"}
        for path in paths:
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                assert stat.S_IMODE(mode) == 0o700, path
            elif stat.S_ISSOCK(mode) or path.suffix in {".key", ".board"} or path.name == "lock":
                assert stat.S_IMODE(mode) == 0o600, path
            assert path.lstat().st_uid == os.getuid()
    finally:
        run.stop()
