"""What is measured: a table of workloads, and how each takes its numbers from one peer in one round.

A sample is a flat record of numbers whose names end in their unit. `per_s_64` is requests per second over 64
connections; `p50_ms_1` the median latency over one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import processes
from http_request import Connection, Request, ask_once, text_of
from load import run_open, run_wrk
from peers.driver import Driver
from peers.peer import OK, Peer, Server

Sample = dict[str, Any]
WARM_S = 0.5
OPEN_RATE = 1000.0
CAPACITY_PER_S, IN_FLIGHT, OVERLOAD = 250.0, 25, 10
ARRAY_BYTES = 10_000_000
CLIENTS, REQUESTS_PER_CLIENT = 8, 50
IDLE_CLIENTS = 200
ALL = ("salver", "ray-tuned", "ray", "mosec", "litserve", "bentoml", "fastapi", "uvicorn", "pair")


@dataclass(frozen=True, slots=True)
class Size:
    """How long everything takes: a real run, or one that only shows that everything works.

    Attributes:
        seconds: of one load.
        connections: of the no-op; others have their own number.
        warm_s: of the load before, which does not count.
        idle_s: how long idleness is watched.
        settle_s: for how long no process must have come or gone before memory is read.
        repeats: of deploys, starts from zero, and single streams.
        replicas: at which memory is read.
    """

    seconds: float = 2.0
    warm_s: float = WARM_S
    connections: tuple[int, ...] = (1, 8, 64, 256)
    idle_s: float = 5.0
    settle_s: float = 1.0
    repeats: int = 5
    replicas: tuple[int, ...] = (1, 2, 4, 8)


SMOKE = Size(seconds=0.2, warm_s=0.05, connections=(1, 64), idle_s=0.2, settle_s=0.1, repeats=1, replicas=(1, 2))


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the table.

    Attributes:
        name: for the command line and the JSON.
        title: for people.
        how: the conditions, in a sentence.
        application: what must run.
        measure: takes one sample.
        peers: who is measured; one that cannot express the application shows as "–".
        columns: the numbers for the table, with their headings.
        seconds: about how long a sample takes at full size, without the start of the server.
        needs_wrk: whether it can be measured without.
        once: in the first round only, because it hardly varies.
    """

    name: str
    title: str
    how: str
    application: str
    measure: Callable[[Peer, Size], Sample]
    columns: Mapping[str, str]
    peers: tuple[str, ...] = ALL
    seconds: float = 2.5
    needs_wrk: bool = True
    once: bool = False


@runtime_checkable
class Deploying(Protocol):
    """A peer that driver scripts deploy to."""

    def driver(self) -> Driver: ...


# --- closed loops -------------------------------------------------------------------------------------------------


def loads(application: str, *connections: int, request: Request | None = None, replicas: int = 1) -> Any:
    """Requests per second and latency over each number of connections; none given: those of the size."""

    def measure(peer: Peer, size: Size) -> Sample:
        asked = peer.adapt(request) if request else peer.request(application)
        with peer.serve(application, replicas) as server:
            _check(server, asked)
            return _loads(server, asked, connections or size.connections, size) | {"first_200_s": server.first_200_s}

    return measure


def _check(server: Server, request: Request) -> None:
    """That the application answered, not something in front of it."""
    answer = ask_once(server.port, request)
    if answer.body != request.body and b"hello" not in answer.body:
        raise RuntimeError(f"{request.method} {request.path} was answered {answer.status} {answer.body[:50]!r}")


def _loads(server: Server, request: Request, connections: tuple[int, ...], size: Size) -> Sample:
    run_wrk(server, request, connections=max(connections), seconds=size.warm_s)  # specialised bytecode, heap, caches
    sample: Sample = {}
    for number in connections:
        load = run_wrk(server, request, connections=number, seconds=size.seconds)
        sample |= {f"{name}_{number}": value for name, value in asdict(load).items()}
    return sample


def body(size_bytes: int) -> Request:
    return Request(method="POST", body=text_of(size_bytes), content_type="application/json")


def streams(application: str, chunks: int, connections: int) -> Any:
    """Chunks per second over some connections; the time to the first byte of the first chunk over one."""

    def measure(peer: Peer, size: Size) -> Sample:
        request = peer.request(application)
        with peer.serve(application) as server:
            first = _first_bytes(server, request, chunks, 10 * size.repeats)
            sample = _loads(server, request, (connections,), size)
        return {
            "chunks_per_s": chunks * sample[f"per_s_{connections}"],
            "first_byte_ms": statistics.median(first),
            "first_byte_p99_ms": max(first),
        }

    return measure


def _first_bytes(server: Server, request: Request, chunks: int, times: int) -> list[float]:
    """In ms, after one stream that checks that everything comes."""
    with Connection(server.port) as connection:
        if (came := connection.ask(request).body.count(b"data:")) != chunks:
            raise RuntimeError(f"{came} of {chunks} chunks came")
        return [1e3 * connection.ask(request).first_byte_s for _ in range(times)]


# --- open loops ---------------------------------------------------------------------------------------------------


def open_loop(peer: Peer, size: Size) -> Sample:
    """Latency when requests come when they come, as users do."""
    with peer.serve("noop") as server:
        run = run_open(server, peer.request("noop"), rate=OPEN_RATE, seconds=size.seconds, connections=256)
    if run["successful"] != run["requests"]:
        raise RuntimeError(f"{run['successful']} of {run['requests']} requests succeeded")
    latency = run["latency_ms"]
    return {f"{name}_ms": latency[name] for name in ("p50", "p99", "p999")} | {"per_s": run["goodput_per_s"]}


def overload(peer: Peer, size: Size) -> Sample:
    """Ten times what the slots can do, next to the same queue kept full but never overflowing."""
    request = peer.request("overload")
    with peer.serve("overload") as server:
        full = run_wrk(server, request, connections=IN_FLIGHT, seconds=size.seconds)
        rate = OVERLOAD * CAPACITY_PER_S
        run = run_open(server, request, rate=rate, seconds=size.seconds, connections=512)
    accepted, rejected = run["latency_ms"] or {}, run["rejected_latency_ms"] or {}
    return {
        "capacity_per_s": full.per_s,
        "goodput_per_s": run["goodput_per_s"],
        "goodput_ratio": run["goodput_per_s"] / full.per_s,
        "full_queue_p99_ms": full.p99_ms,
        "accepted_p99_ms": accepted.get("p99"),
        "rejected_p50_ms": rejected.get("p50"),
        "rejected_p99_ms": rejected.get("p99"),
        "failed": run["failed"],
        "bottleneck": run["generator"]["bottleneck"],
    }


# --- inside the application ---------------------------------------------------------------------------------------


def array(peer: Peer, size: Size) -> Sample:
    """The ingress times its calls itself; HTTP only starts them."""
    with peer.serve("array") as server:
        request = peer.adapt(Request("/?times=1"))
        ask_once(server.port, request)
        times = max(1, int(size.seconds / 0.1))
        taken = [float(ask_once(server.port, request).body.strip(b"[]\n")) for _ in range(times)]
    return {"call_ms": 1e3 * statistics.median(taken), "gb_per_s": ARRAY_BYTES / statistics.median(taken) / 1e9}


# --- starts -------------------------------------------------------------------------------------------------------


def start(peer: Peer, size: Size) -> Sample:
    """From nothing to the first 200, seen from outside."""
    peer.close()
    with peer.serve("noop") as server:
        return {"first_200_s": server.first_200_s}


def deploys(peer: Peer, size: Size) -> Sample:
    """`serve.run` of what already runs, and the first request to a deployment that has no replica."""
    if not isinstance(peer, Deploying):
        raise TypeError(f"{peer.title} has no driver scripts")
    request = peer.request("noop")
    with ExitStack() as stack:
        driver = peer.driver()
        if not peer.lasting:
            stack.enter_context(driver)
        driver.deploy("noop")
        again = [driver.deploy("noop") for _ in range(size.repeats)]
        driver.delete()
        cold = [_first_request(driver, request) for _ in range(size.repeats)]
    return {"redeploy_s": statistics.median(again), "from_zero_s": statistics.median(cold)}


def _first_request(driver: Driver, request: Request) -> float:
    driver.deploy("cold")
    try:
        begin = time.perf_counter()
        if (status := ask_once(driver.port, request).status) != OK:
            raise RuntimeError(f"the first request to no replica was answered {status}")
        return time.perf_counter() - begin
    finally:
        driver.delete()


# --- at rest ------------------------------------------------------------------------------------------------------


def footprint(*replicas: int) -> Any:
    """Memory of all processes after some hundred requests (before, it flatters), and CPU without any."""

    def measure(peer: Peer, size: Size) -> Sample:
        sample: Sample = {}
        for number in (number for number in size.replicas if number in (replicas or size.replicas)):
            if number <= peer.most_replicas:
                sample |= _footprint(peer, number, size)
        counts = sorted(int(name.rpartition("_")[2]) for name in sample if name.startswith("pss_mb_"))
        if len(counts) > 1:
            few, many = counts[0], counts[-1]
            sample["further_mb"] = (sample[f"pss_mb_{many}"] - sample[f"pss_mb_{few}"]) / (many - few)
        return sample

    return measure


def _footprint(peer: Peer, replicas: int, size: Size) -> Sample:
    request = peer.request("noop")
    with peer.serve("noop", replicas) as server:
        for _ in range(CLIENTS):
            with Connection(server.port) as connection:
                for _ in range(REQUESTS_PER_CLIENT):
                    connection.ask(request)
        tree = processes.settled_tree(server.pid, size.settle_s)
        each = processes.memory(tree)
        return {
            f"pss_mb_{replicas}": sum(process.pss_mb for process in each),
            f"rss_mb_{replicas}": sum(process.rss_mb for process in each),
            f"idle_percent_{replicas}": processes.cpu_percent(tree, size.idle_s),
            f"processes_{replicas}": [asdict(process) for process in each],
        }


def idle_clients(peer: Peer, size: Size) -> Sample:
    """What clients cost that are connected and silent, and what they cost those that are not."""
    request = peer.request("noop")
    with peer.serve("noop") as server, ExitStack() as clients:
        run_wrk(server, request, connections=64, seconds=size.warm_s)
        tree = processes.settled_tree(server.pid, size.settle_s)
        before = sum(process.pss_mb for process in processes.memory(tree))
        for _ in range(IDLE_CLIENTS):
            clients.enter_context(Connection(server.port)).ask(request)
        after = sum(process.pss_mb for process in processes.memory(tree))
        percent = processes.cpu_percent(tree, size.idle_s)
        load = run_wrk(server, request, connections=64, seconds=size.seconds)
    return {
        "kb_per_client": 1e3 * (after - before) / IDLE_CLIENTS,
        "idle_percent": percent,
        "per_s_64": load.per_s,
        "p50_ms_64": load.p50_ms,
        "p99_ms_64": load.p99_ms,
    }


# --- the table ----------------------------------------------------------------------------------------------------

FAST = ("salver", "ray-tuned", "mosec", "fastapi", "uvicorn")
RATE_64 = {"per_s_64": "requests/s", "p50_ms_64": "p50 ms", "p99_ms_64": "p99 ms"}
RATES = {
    "per_s_1": "1 conn. /s",
    "p50_ms_1": "p50 ms",
    "per_s_8": "8 conn. /s",
    "per_s_64": "64 conn. /s",
    "p99_ms_64": "p99 ms",
    "per_s_256": "256 conn. /s",
}
STREAMS = {"chunks_per_s": "chunks/s", "first_byte_ms": "first byte ms"}
WRK = "`wrk -t1`, a closed loop on the same cores"

TABLE: tuple[Workload, ...] = (
    Workload(
        "start",
        "Start to the first 200",
        "No-op application; from just before the process is created, seen from outside.",
        "noop",
        start,
        {"first_200_s": "seconds"},
        seconds=0.1,
        needs_wrk=False,
    ),
    Workload(
        "noop",
        "No-op, one replica",
        f"{WRK}: 1, 8, 64 and 256 connections.",
        "noop",
        loads("noop"),
        RATES,
        seconds=8.5,
    ),
    Workload(
        "noop_2",
        "No-op, two replicas",
        "The same with two replicas (two workers); on two cores they compete with the client.",
        "noop",
        loads("noop", 1, 64, replicas=2),
        {"per_s_1": "1 conn. /s", "per_s_64": "64 conn. /s", "p99_ms_64": "p99 ms"},
        seconds=4.5,
    ),
    Workload(
        "composed",
        "Composed: ingress → child",
        f"One call through a handle; Mosec: two stages. {WRK}, 64 connections and one.",
        "composed",
        loads("composed", 1, 64),
        {"per_s_64": "64 conn. /s", "p50_ms_64": "p50 ms", "p50_ms_1": "1 conn. p50 ms"},
        seconds=4.5,
    ),
    Workload(
        "chain",
        "A chain of five deployments",
        f"Four calls through handles, one behind the other. {WRK}, 64 connections and one.",
        "chain",
        loads("chain", 1, 64),
        {"per_s_64": "64 conn. /s", "p50_ms_64": "p50 ms", "p50_ms_1": "1 conn. p50 ms"},
        seconds=4.5,
    ),
    Workload(
        "fastapi",
        "FastAPI ingress → child echo",
        f"A FastAPI route that calls a child; FastAPI on uvicorn: the same route without one. {WRK}, 64 connections.",
        "fastapi",
        loads("fastapi", 64, request=Request("/?text=hello")),
        RATE_64,
    ),
    Workload(
        "sync",
        "Sync handler",
        f"A `def` instead of an `async def`. {WRK}, 64 connections.",
        "sync",
        loads("sync", 64),
        RATE_64,
    ),
    Workload(
        "echo_10k",
        "10 KB echo",
        f"The body comes back. {WRK}, 64 connections.",
        "echo",
        loads("echo", 64, request=body(10_000)),
        RATE_64,
    ),
    Workload(
        "echo_1m",
        "1 MB echo",
        f"The body comes back. {WRK}, 8 connections.",
        "echo",
        loads("echo", 8, request=body(1_000_000)),
        {"per_s_8": "requests/s", "p50_ms_8": "p50 ms", "p99_ms_8": "p99 ms"},
    ),
    Workload(
        "echo_10m",
        "10 MB echo",
        f"The body comes back. {WRK}, 2 connections.",
        "echo",
        loads("echo", 2, request=body(10_000_000)),
        {"per_s_2": "requests/s", "p50_ms_2": "p50 ms", "p99_ms_2": "p99 ms"},
    ),
    Workload(
        "array",
        "10 MB NumPy array through a handle",
        "One call at a time, timed by the ingress; the child reads one number of each page.",
        "array",
        array,
        {"gb_per_s": "GB/s", "call_ms": "ms"},
        needs_wrk=False,
    ),
    Workload(
        "stream_50",
        "Server-sent events, 50 chunks",
        f"Chunks/s: {WRK}, 16 connections. First byte: one connection.",
        "stream_50",
        streams("stream_50", 50, 16),
        STREAMS,
        seconds=3.0,
    ),
    Workload(
        "stream_1000",
        "Server-sent events, 1,000 tokens",
        f"Chunks/s: {WRK}, 16 connections. First byte: one connection.",
        "stream_1000",
        streams("stream_1000", 1000, 16),
        STREAMS,
        seconds=4.0,
    ),
    Workload(
        "batch",
        "Batches of 16 over a 5 ms model",
        f"Up to 16 inputs or 10 ms; ideal: 3,200/s. {WRK}, 64 connections.",
        "batch",
        loads("batch", 64),
        RATE_64,
    ),
    Workload(
        "open",
        "No-op at 1,000 requests/s, open loop",
        "`salver bench`, Poisson arrivals: latencies count from when a request was due.",
        "noop",
        open_loop,
        {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "p999_ms": "p99.9 ms"},
        peers=FAST,
        seconds=4.0,
        needs_wrk=False,
    ),
    Workload(
        "overload",
        "Overload, ten times capacity",
        "Five at a time, 20 ms each, at most 20 waiting: 250/s; `salver bench` offers 2,500/s. The full queue: "
        "25 connections in a closed loop, so that it is full and nobody is refused.",
        "overload",
        overload,
        {
            "goodput_per_s": "goodput /s",
            "capacity_per_s": "capacity /s",
            "accepted_p99_ms": "accepted p99 ms",
            "full_queue_p99_ms": "full queue p99 ms",
            "rejected_p99_ms": "rejected p99 ms",
        },
        seconds=6.0,
    ),
    Workload(
        "deploys",
        "Redeploy unchanged, scale 0 → 1",
        "`serve.run` in a driver script of what runs already; the first request to a deployment without a replica.",
        "cold",
        deploys,
        {"redeploy_s": "redeploy s", "from_zero_s": "0 → 1 s"},
        peers=("salver", "ray-tuned", "ray"),
        seconds=8.0,
        needs_wrk=False,
    ),
    Workload(
        "footprint",
        "Memory and idle CPU",
        "All processes of the server, after 400 requests; 1, 2, 4 and 8 replicas.",
        "noop",
        footprint(),
        {
            "pss_mb_1": "1 replica PSS MB",
            "rss_mb_1": "RSS MB",
            "further_mb": "each further MB",
            "pss_mb_8": "8 replicas PSS MB",
            "rss_mb_8": "RSS MB",
            "idle_percent_1": "idle, 1: % of a core",
            "idle_percent_8": "idle, 8: %",
        },
        peers=("salver", "ray-tuned", "ray", "mosec", "litserve", "bentoml", "uvicorn"),
        seconds=40.0,
        needs_wrk=False,
        once=True,
    ),
    Workload(
        "idle_clients",
        "200 connected idle clients",
        f"Each has asked once. Their memory, the server's idle CPU, and {WRK} over 64 more connections.",
        "noop",
        idle_clients,
        {"kb_per_client": "KB per client", "idle_percent": "idle % of a core", **RATE_64},
        peers=FAST,
        seconds=11.0,
        once=True,
    ),
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in TABLE}
