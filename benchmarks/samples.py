"""How samples are taken: each function here measures one application on one peer, once.

A sample is a flat record of numbers whose names end in their unit. `per_s_64` is requests per second over 64
connections; `p50_ms_1` the median latency over one.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
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
FULL_AT_LEAST_S = 1.0
ARRAY_BYTES = 10_000_000
CLIENTS, REQUESTS_PER_CLIENT = 8, 50
IDLE_CLIENTS = 200
BATCH_SIZE, MODEL_S = 16, 0.005


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


Measure = Callable[[Peer, Size], Sample]


@runtime_checkable
class Deploying(Protocol):
    """A peer that driver scripts deploy to."""

    def driver(self) -> Driver: ...


# --- closed loops -------------------------------------------------------------------------------------------------


def loads(application: str, *connections: int, request: Request | None = None, replicas: int = 1) -> Measure:
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


def batches(connections: int) -> Measure:
    """Requests per second through a batching model, and those of the model itself: called in a loop, each time with
    a full batch, by nothing but asyncio. A thread that sleeps 5 ms is back after a little more."""

    def measure(peer: Peer, size: Size) -> Sample:
        sample = loads("batch", connections)(peer, size)
        return sample | {"model_per_s": asyncio.run(_model_alone(size.seconds))}

    return measure


async def _model_alone(seconds: float) -> float:
    begin, batches = time.perf_counter(), 0
    while (taken := time.perf_counter() - begin) < seconds:
        await asyncio.to_thread(time.sleep, MODEL_S)
        batches += 1
    return batches * BATCH_SIZE / taken


def streams(application: str, chunks: int, connections: int) -> Measure:
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
        # Long enough for an answer: a second try could meet the first one's requests in the queue, and be refused.
        full = run_wrk(server, request, connections=IN_FLIGHT, seconds=max(FULL_AT_LEAST_S, size.seconds))
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


def footprint(peer: Peer, size: Size) -> Sample:
    """Memory of all processes after some hundred requests (before, it flatters), and CPU without any; of peers with
    the fewest and the most replicas only."""
    few, many = size.replicas[0], size.replicas[-1]
    sample: Sample = {}
    for number in size.replicas if peer.name == "salver" else (few, many):
        sample |= _footprint(peer, number, size)
    return sample | {"further_mb": (sample[f"pss_mb_{many}"] - sample[f"pss_mb_{few}"]) / (many - few)}


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
