"""What is measured: the table of workloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from http_request import Request
from samples import (
    Measure,
    array,
    batches,
    body,
    deploys,
    footprint,
    idle_clients,
    loads,
    open_loop,
    overload,
    start,
    streams,
)

ALL = ("salver", "ray-tuned", "ray", "mosec", "litserve", "bentoml", "fastapi", "uvicorn", "pair")


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
    measure: Measure
    columns: Mapping[str, str]
    peers: tuple[str, ...] = ALL
    seconds: float = 2.5
    needs_wrk: bool = True
    once: bool = False


FAST = ("salver", "ray-tuned", "mosec", "fastapi", "uvicorn")
"""Those that are near enough for their smaller differences to be of interest: all others only get the headlines."""
LIMITS = ("salver", "ray-tuned", "mosec", "uvicorn", "pair")
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
        peers=LIMITS,
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
        peers=LIMITS,
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
        peers=FAST,
    ),
    Workload(
        "echo_10k",
        "10 KB echo",
        f"The body comes back. {WRK}, 64 connections.",
        "echo",
        loads("echo", 64, request=body(10_000)),
        RATE_64,
        peers=(*FAST, "pair"),
    ),
    Workload(
        "echo_1m",
        "1 MB echo",
        f"The body comes back. {WRK}, 8 connections.",
        "echo",
        loads("echo", 8, request=body(1_000_000)),
        {"per_s_8": "requests/s", "p50_ms_8": "p50 ms", "p99_ms_8": "p99 ms"},
        peers=LIMITS,
    ),
    Workload(
        "echo_10m",
        "10 MB echo",
        f"The body comes back. {WRK}, 2 connections.",
        "echo",
        loads("echo", 2, request=body(10_000_000)),
        {"per_s_2": "requests/s", "p50_ms_2": "p50 ms", "p99_ms_2": "p99 ms"},
        peers=LIMITS,
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
        peers=LIMITS,
    ),
    Workload(
        "batch",
        "Batches of 16 over a 5 ms model",
        f"Up to 16 inputs or 10 ms. {WRK}, 64 connections. The model alone: a bare loop that calls it with 16 inputs "
        "again and again; 5 ms would be 3,200/s, but a thread that sleeps so long is back a little later.",
        "batch",
        batches(64),
        {**RATE_64, "model_per_s": "the model alone /s"},
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
        peers=FAST,
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
        once=True,
    ),
    Workload(
        "footprint",
        "Memory and idle CPU",
        "All processes of the server, after 400 requests; 1, 2, 4 and 8 replicas (peers: 1 and 8).",
        "noop",
        footprint,
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
        seconds=20.0,
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
