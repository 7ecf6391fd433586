"""Which application gets a path, against the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from salver.data.http.ingress import Ingress
from salver.data.http.options import ProxyOptions
from salver.wire.snapshot import ApplicationRoute, Snapshot

segments = st.lists(st.sampled_from(["", "a", "b", "ab"]), max_size=4)
paths = segments.map(lambda names: "/" + "/".join(names))


class Table:
    """What an ingress needs of a caller to have a routing table."""

    def __init__(self, prefixes: list[str]) -> None:
        applications = tuple(ApplicationRoute(prefix, prefix, "model") for prefix in prefixes)
        self.snapshot = Snapshot(1, 1, applications)

    def on_snapshot(self, tell: Callable[[Snapshot], None]) -> None:
        tell(self.snapshot)

    def router(self, key: str) -> None:
        """Nothing is to be called."""


def by_definition(prefixes: list[str], path: str) -> str | None:
    bare = {prefix.rstrip("/"): prefix for prefix in reversed(prefixes)}
    found = [prefix for prefix in bare if not prefix or path == prefix or path.startswith(f"{prefix}/")]
    return bare[max(found, key=len)] if found else None


@given(st.lists(paths.filter(lambda path: "//" not in path), unique_by=lambda path: path.rstrip("/")), paths)
def test_the_longest_prefix_wins(prefixes: list[str], path: str) -> None:
    table: Any = Table(prefixes)
    mounted = Ingress(table, ProxyOptions())._find(path.encode())
    assert (None if mounted is None else mounted.name) == by_definition(prefixes, path)


def test_a_path_of_slashes_is_no_work() -> None:
    table: Any = Table(["/a"])
    assert Ingress(table, ProxyOptions())._find(b"/" * 1_000_000) is None
