"""Which sockets processes listen on, as the kernel knows it."""

from __future__ import annotations

from pathlib import Path

from harness.descriptors import targets_of

_TCP_LISTEN = "0A"
_UNIX_ACCEPTS = 0x10000


def sockets_of(pids: list[int]) -> set[str]:
    """The inode numbers of all sockets that the processes hold."""
    inodes: set[str] = set()
    for pid in pids:
        for target in targets_of(pid):
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
