"""Memory of every process of `salver run`, with one replica and with four, and what it all costs when idle.

    python benchmarks/memory.py
    python benchmarks/memory.py --idle-seconds 60

PSS (proportional set size) splits a page among the processes that map it, so that the sum over processes is what
they take from the machine together. Memory is read after a few hundred requests: before, it flatters.
"""

import argparse
import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from report import RESULTS, Environment, Row, Section, write
from servers import Server, salver

CLIENTS, REQUESTS_PER_CLIENT = 8, 50
FEW, MANY = 1, 4
TITLE = "salver: "
SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    role: str
    pss_bytes: int
    rss_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """One run with a number of replicas."""

    replicas: int
    processes: list[ProcessMemory]
    idle_cpu_percent: float
    """Of one core, all processes together."""

    @property
    def pss_bytes(self) -> int:
        return sum(process.pss_bytes for process in self.processes)

    @property
    def rss_bytes(self) -> int:
        return sum(process.rss_bytes for process in self.processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--idle-seconds", type=float, default=10.0, help="how long idleness is watched (default 10)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    environment = Environment()
    few, many = (measure(replicas, options.idle_seconds) for replicas in (FEW, MANY))
    write("memory", environment, [section(few, many, options.idle_seconds)], options.output)


def measure(replicas: int, idle_seconds: float) -> Usage:
    """Starts, sends the requests, reads, watches it do nothing."""
    with salver("noop:build", f"replicas={replicas}") as server:
        with ThreadPoolExecutor(CLIENTS) as clients:
            list(clients.map(_send_requests, [server] * CLIENTS))  # the list raises what a client raised
        root = psutil.Process(server.process.pid)
        tree = _settled_tree(root)
        memory = [_memory(process, is_root=process == root) for process in tree]
        if sum(process.role == "replica" for process in memory) != replicas:
            raise RuntimeError(f"expected {replicas} replicas among {[process.role for process in memory]}")
        return Usage(replicas, memory, _cpu_percent(tree, idle_seconds))


def _send_requests(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        for _ in range(REQUESTS_PER_CLIENT):
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            if response.status != http.HTTPStatus.OK:
                raise RuntimeError(f"the no-op application answered {response.status}")
    finally:
        connection.close()


def _settled_tree(root: psutil.Process) -> list[psutil.Process]:
    """All processes, once none has come or gone for a second: the child that built the application ends by itself."""
    tree: list[psutil.Process] = []
    while tree != (tree := [root, *root.children(recursive=True)]):
        time.sleep(SETTLE_SECONDS)
    return tree


def _memory(process: psutil.Process, *, is_root: bool) -> ProcessMemory:
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, size = line.partition(":")
        sizes[name] = int(size.split()[0]) * 1024
    return ProcessMemory("salver run" if is_root else _role(process), sizes["Pss"], sizes["Rss"])


def _role(process: psutil.Process) -> str:
    """`replica` from `salver: replica default#Noop#k3f9`; a command line may hold paths, so it is never shown."""
    title = " ".join(process.cmdline())
    return title.removeprefix(TITLE).split()[0] if title.startswith(TITLE) else "other"


def _cpu_percent(tree: list[psutil.Process], seconds: float) -> float:
    before = _cpu_seconds(tree)
    time.sleep(seconds)
    return 100 * (_cpu_seconds(tree) - before) / seconds


def _cpu_seconds(tree: list[psutil.Process]) -> float:
    """Counted in nanoseconds by the scheduler: clock ticks of 10 ms would hide all that an idle process does."""
    tasks = (task for process in tree for task in Path(f"/proc/{process.pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def section(few: Usage, many: Usage, idle_seconds: float) -> Section:
    """Per process, in all, and what one replica more costs."""
    further = (many.pss_bytes - few.pss_bytes) / (many.replicas - few.replicas)
    return Section(
        title="Memory and idleness",
        how=f"PSS after {CLIENTS * REQUESTS_PER_CLIENT} requests, the no-op application; CPU over {idle_seconds:g} s "
        "without any request.",
        rows=[
            Row("all processes, 1 replica", f"{_mb(few.pss_bytes)} (RSS {_mb(few.rss_bytes)})", "≤ 80 MB"),
            *(Row(f"– {process.role}", _mb(process.pss_bytes)) for process in few.processes),
            Row("all processes, 4 replicas", f"{_mb(many.pss_bytes)} (RSS {_mb(many.rss_bytes)})"),
            Row("each further replica", _mb(further), "≤ 12 MB"),
            Row("idle CPU, 1 replica", f"{few.idle_cpu_percent:.2f} % of a core", "≤ 1 %"),
            Row("idle CPU, 4 replicas", f"{many.idle_cpu_percent:.2f} % of a core"),
        ],
        numbers={
            "pss_bytes": few.pss_bytes,
            "pss_per_further_replica_bytes": further,
            "idle_cpu_percent": few.idle_cpu_percent,
            "runs": [asdict(few), asdict(many)],
        },
    )


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
