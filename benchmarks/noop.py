"""Requests per second and latency of a no-op, next to bare uvicorn in the same run.

    python benchmarks/noop.py
    python benchmarks/noop.py --rounds 5 --seconds 10

Three servers run side by side, idle but for the one under load: Salver's no-op (two processes: proxy, replica),
Salver's composition (three: proxy, ingress, child) and bare uvicorn (one). A round loads each of them once with 64
connections and once with one; rounds alternate in direction, so that a machine that drifts treats all alike.
"""

import argparse
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median

from report import RESULTS, Environment, Row, Section, write
from servers import salver, uvicorn
from wrk import Load, require_wrk, run_wrk

MANY, ONE = 64, 1
NOOP, COMPOSED, BARE = "salver_noop", "salver_composed", "bare_uvicorn"
Loads = dict[str, dict[int, list[Load]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is loaded (default 3)")
    parser.add_argument("--seconds", type=int, default=5, help="length of one load (default 5)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    require_wrk()
    environment = Environment()
    loads = measure(options.rounds, options.seconds)
    write("noop", environment, [section(loads, options.rounds, options.seconds)], options.output)


def measure(rounds: int, seconds: int) -> Loads:
    """Every load of every round, by server and connections."""
    with ExitStack() as stack:
        urls = {
            NOOP: stack.enter_context(salver("noop:app")).url,
            COMPOSED: stack.enter_context(salver("composed:app")).url,
            BARE: stack.enter_context(uvicorn()).url,
        }
        for url in urls.values():
            run_wrk(url, connections=MANY, seconds=1)  # warm: imports on first use, specialised bytecode, heap
        loads: Loads = {name: {MANY: [], ONE: []} for name in urls}
        for number in range(rounds):
            for name in urls if number % 2 == 0 else reversed(urls):
                for connections in (MANY, ONE):
                    loads[name][connections].append(run_wrk(urls[name], connections=connections, seconds=seconds))
        return loads


def section(loads: Loads, rounds: int, seconds: int) -> Section:
    """Medians over the rounds; a ratio is the median of each round's own."""
    noop_ratio, composed_ratio = (_ratio(loads[name][MANY], loads[BARE][MANY]) for name in (NOOP, COMPOSED))
    return Section(
        title="No-op over HTTP",
        how=f"`wrk -t1 -c64` and `wrk -t1 -c1`, {seconds} s each, on the same cores; median (and range) of {rounds} "
        "rounds. One replica per deployment, one proxy, default options; uvicorn: uvloop, httptools, no proxy hop.",
        rows=[
            Row("no-op, 64 connections", _rate(loads[NOOP][MANY])),
            Row("composed, 64 connections", _rate(loads[COMPOSED][MANY])),
            Row("bare uvicorn, 64 connections", _rate(loads[BARE][MANY])),
            Row("no-op / bare uvicorn", f"{noop_ratio:.2f} ×", "≥ 0.4 ×"),
            Row("composed / bare uvicorn", f"{composed_ratio:.2f} ×"),
            Row("no-op, 64 connections, p50 / p99", _latency(loads[NOOP][MANY])),
            Row("composed, 64 connections, p50 / p99", _latency(loads[COMPOSED][MANY])),
            Row("bare uvicorn, 64 connections, p50 / p99", _latency(loads[BARE][MANY])),
            Row("no-op, 1 connection, p50 / p99", _latency(loads[NOOP][ONE]), "p50 ≤ 0.4 ms"),
            Row("composed, 1 connection, p50 / p99", _latency(loads[COMPOSED][ONE])),
            Row("bare uvicorn, 1 connection, p50 / p99", _latency(loads[BARE][ONE])),
        ],
        numbers={
            "no_op_to_bare_uvicorn_ratio": noop_ratio,
            "composed_to_bare_uvicorn_ratio": composed_ratio,
            "rounds": {
                name: [asdict(load) for samples in by_connections.values() for load in samples]
                for name, by_connections in loads.items()
            },
        },
    )


def _ratio(ours: list[Load], theirs: list[Load]) -> float:
    pairs = zip(ours, theirs, strict=True)
    return median(our.requests_per_second / their.requests_per_second for our, their in pairs)


def _rate(loads: list[Load]) -> str:
    rates = [load.requests_per_second for load in loads]
    return f"{median(rates):,.0f}/s ({min(rates):,.0f}–{max(rates):,.0f})"


def _latency(loads: list[Load]) -> str:
    return f"{median(load.p50_ms for load in loads):.2f} / {median(load.p99_ms for load in loads):.2f} ms"


if __name__ == "__main__":
    main()
