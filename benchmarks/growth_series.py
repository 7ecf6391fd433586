"""What grows, and how a point of each series is measured.

Every point is an instance of its own, started as users start one. Latencies are those of one open-loop rate, the same
at every point: what changes along a series is then not a queue but the work for a request. That work is the CPU time
of all processes of the instance, in nanoseconds of the scheduler, over the requests that it answered.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import processes
import psutil
from growth_clients import Crowd
from http_request import Request, ask_once
from load import run_open, run_wrk
from peers.peer import APPS, OK, Server, free_port, private_folder, running
from peers.salver import HERE
from results import Sample

BENCH_CONNECTIONS, SPREAD_CONNECTIONS = 64, 100
ALL_ANSWER_WITHIN_S, ASKED_EVERY_S = 120.0, 0.01
ROOT = Request()
REPLICA = "salver: replica"


@dataclass(frozen=True, slots=True)
class Size:
    """How long a point takes.

    Attributes:
        rate: requests per second, of every load.
        seconds: of one load.
        rounds: loads at each point, after one that does not count.
        idle_s: how long idleness is watched.
        settle_s: for how long no process must have come or gone before memory is read.
    """

    rate: float = 1000.0
    seconds: float = 2.0
    rounds: int = 3
    idle_s: float = 3.0
    settle_s: float = 1.0


SMOKE = Size(rate=100.0, seconds=0.2, rounds=1, idle_s=0.2, settle_s=0.1)
Measure = Callable[[int, Size], list[Sample]]


@dataclass(frozen=True, slots=True)
class Series:
    """One thing that grows.

    Attributes:
        title: for people.
        how: the conditions, in a sentence.
        unit: of what grows, in the plural.
        points: how many.
        measure: one sample for each round at one point.
        columns: the numbers for the table, with their headings.
    """

    title: str
    how: str
    unit: str
    points: tuple[int, ...]
    measure: Measure
    columns: Mapping[str, str]


def replicas(count: int, size: Size) -> list[Sample]:
    with _application("noop", count) as server:
        samples = _loaded(size, lambda seconds: _open(server, ROOT, size.rate, seconds))
        return [samples[0] | _at_rest(server, size), *samples[1:]]


def callers(count: int, size: Size) -> list[Sample]:
    with _application("composed", count) as server:
        return _loaded(size, lambda seconds: _open(server, ROOT, size.rate, seconds))


def applications(count: int, size: Size) -> list[Sample]:
    with _applications(count) as server:
        crowd = partial(_in_turn, server, _paths(count), max(SPREAD_CONNECTIONS, count))
        loads = _loaded(size, lambda seconds: _open(server, Request(_paths(1)[0]), size.rate, seconds))
        spread = _loaded(size, lambda seconds: crowd(size.rate, seconds))
        samples = [
            one | {f"spread_{name}": value for name, value in all_.items()}
            for one, all_ in zip(loads, spread, strict=True)
        ]
        return [samples[0] | _at_rest(server, size), *samples[1:]]


def connections(count: int, size: Size) -> list[Sample]:
    """At the constant rate, and as fast as they can: a closed loop, in which latency follows from throughput."""
    with _application("noop", 1) as server:
        samples = _loaded(size, lambda seconds: _in_turn(server, ["/"], count, size.rate, seconds))
        closed = _loaded(size, lambda seconds: _closed(server, count, seconds))
        return [one | all_ for one, all_ in zip(samples, closed, strict=True)]


# --- instances ----------------------------------------------------------------------------------------------------


@contextmanager
def _application(name: str, count: int) -> Generator[Server]:
    port = free_port()
    build = ["serving:build", f"application={name}", f"replicas={count}"]
    with running([*_run(port), *build], port, ROOT) as server:
        start = time.perf_counter()
        while len(_replicas(server)) < count:
            if time.perf_counter() - start > ALL_ANSWER_WITHIN_S:
                raise RuntimeError(f"fewer than {count} replicas run")
            time.sleep(ASKED_EVERY_S)
        yield Server(server.pid, port, server.first_200_s + time.perf_counter() - start)


def _replicas(server: Server) -> list[int]:
    """Their process ids."""
    found: list[int] = []
    for process in processes.tree(server.pid):
        try:
            if process.name().startswith(REPLICA):
                found.append(process.pid)
        except psutil.NoSuchProcess:  # it has just ended
            pass
    return found


@contextmanager
def _applications(count: int) -> Generator[Server]:
    """From one config file; `first_200_s` is until the last of them has answered."""
    port, paths = free_port(), _paths(count)
    config = {
        "applications": [
            {
                "name": path[1:],
                "route_prefix": path,
                "import_path": "serving:build",
                "args": {"application": "noop", "replicas": "1"},
            }
            for path in paths
        ]
    }
    with private_folder() as folder:
        file = folder / "applications.yaml"
        file.write_text(json.dumps(config))  # JSON is YAML
        with running([*_run(port), str(file)], port, Request(paths[0])) as server:
            start = time.perf_counter()
            for path in paths:
                _wait_for_200(port, Request(path), start + ALL_ANSWER_WITHIN_S)
            yield Server(server.pid, port, server.first_200_s + time.perf_counter() - start)


def _run(port: int) -> list[str]:
    return [HERE.command("salver"), "run", "--app-dir", str(APPS), "--port", str(port)]


def _paths(count: int) -> list[str]:
    return [f"/a{number}" for number in range(count)]


def _wait_for_200(port: int, request: Request, deadline: float) -> None:
    while (answer := ask_once(port, request)).status != OK:
        if time.perf_counter() > deadline:
            raise RuntimeError(f"{request.path} still answers {answer.status}: {answer.body[:100]!r}")
        time.sleep(ASKED_EVERY_S)


# --- samples ------------------------------------------------------------------------------------------------------


def _loaded(size: Size, sample: Callable[[float], Sample]) -> list[Sample]:
    """One load that does not count, for what is learnt and built with the first requests; then one for each round."""
    sample(size.seconds)
    return [sample(size.seconds) for _ in range(size.rounds)]


def _meter(server: Server) -> Callable[[], float]:
    """Says how many seconds of CPU the instance has taken since now. What ends meanwhile does not count: it is the
    child that has built the application, and serves nobody."""
    before = {process: seconds for process in processes.tree(server.pid) if (seconds := _cpu_seconds(process))}
    return lambda: sum(max(0.0, _cpu_seconds(process) - seconds) for process, seconds in before.items())


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        return processes.cpu_seconds([process])
    except OSError:  # it has just ended
        return 0.0


def _open(server: Server, request: Request, rate: float, seconds: float) -> Sample:
    cost = _meter(server)
    run = run_open(server, request, rate=rate, seconds=seconds, connections=BENCH_CONNECTIONS, warmup_s=0)
    cpu_s = cost()
    if run["successful"] < run["requests"] or not run["requests"]:
        raise RuntimeError(f"{run['successful']} of {run['requests']} requests were answered: {run['statuses']}")
    latency = run["latency_ms"]
    return {"p50_ms": latency["p50"], "p99_ms": latency["p99"], "cpu_us": 1e6 * cpu_s / run["requests"]}


def _in_turn(server: Server, paths: list[str], count: int, rate: float, seconds: float) -> Sample:
    async def load() -> Sample:
        async with Crowd(server.port, paths, count) as crowd:
            turns = await crowd.load(rate, seconds, lambda: _meter(server))
        cpu_us = 1e6 * turns.cost / len(turns.latencies_ms)
        return {"p50_ms": turns.percentile(50), "p99_ms": turns.percentile(99), "cpu_us": cpu_us}

    return asyncio.run(load())


def _closed(server: Server, count: int, seconds: float) -> Sample:
    return {"closed_per_s": run_wrk(server, ROOT, connections=count, seconds=seconds).per_s}


def _at_rest(server: Server, size: Size) -> Sample:
    everything = processes.settled_tree(server.pid, size.settle_s)
    return {
        "start_s": server.first_200_s,
        "pss_mb": sum(process.pss_mb for process in processes.memory(everything)),
        "idle_percent": processes.cpu_percent(everything, size.idle_s),
    }


LATENCY = {"cpu_us": "CPU per request, µs", "p50_ms": "p50, ms", "p99_ms": "p99, ms"}
REST = {"start_s": "start, s", "pss_mb": "memory (PSS), MB", "idle_percent": "idle, % of a core"}
SPREAD = {
    "spread_cpu_us": "spread over all: CPU per request, µs",
    "spread_p50_ms": "p50, ms",
    "spread_p99_ms": "p99, ms",
}

SERIES: dict[str, Series] = {
    "replicas": Series(
        "Replicas of one deployment",
        "A no-op; `salver bench` over up to 64 connections.",
        "replicas",
        (1, 2, 4, 8, 16, 32),
        replicas,
        LATENCY | REST,
    ),
    "applications": Series(
        "Applications of one instance",
        "No-ops of one config file, one replica each. Requests to one of them with `salver bench`; then spread over "
        "all, from as many connections but at least 100, each used in turn.",
        "applications",
        (1, 10, 30, 100),
        applications,
        LATENCY | SPREAD | REST,
    ),
    "connections": Series(
        "Connections of clients",
        "A no-op with one replica; every connection is used in turn. Closed loop: wrk as fast as it can.",
        "connections",
        (1, 10, 100, 500, 1000, 2000),
        connections,
        LATENCY | {"closed_per_s": "closed loop, requests/s"},
    ),
    "callers": Series(
        "Callers of one deployment",
        "An ingress with so many replicas, each with a handle to one child with one replica; `salver bench` over up "
        "to 64 connections.",
        "callers",
        (1, 5, 10, 20, 50),
        callers,
        LATENCY,
    ),
}
