"""Load from outside: wrk in a closed loop, `salver bench` in an open one.

wrk, one thread, is the fastest client there is: a connection sends its next request when the last one is answered, so
its latencies follow from the throughput (connections ÷ requests per second). `salver bench` sends when a request is
due, whether or not the last ones were answered, so that a stall shows.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from http_request import Request
from peers.peer import Server

SCRIPT = Path(__file__).with_name("wrk.lua")
WRK_IS_MISSING = "wrk, an HTTP load generator, is missing. Debian and Ubuntu have it as a package: apt install wrk"
LONGEST_S = 3600
WITHIN_S = 60
SIGNAL_AGAIN_S = 0.02
PATIENCE_S = 30


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw."""

    per_s: float
    p50_ms: float
    p99_ms: float


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def wrk_version() -> str | None:
    """As in `4.1.0-3`; None when wrk is not installed."""
    if not has_wrk():
        return None
    # wrk prints its version, then its usage, and exits with 1.
    words = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split()
    return words[1].removeprefix("debian/") if len(words) > 1 else None


def run_wrk(server: Server, request: Request, *, connections: int, seconds: float) -> Load:
    """Raises RuntimeError if any request failed: a fast 503 must not count as speed.

    A server that answers nothing in that time gets twice as much, and again, up to half a minute.
    """
    with tempfile.NamedTemporaryFile(prefix="salver-bench-") as body:
        body.write(request.body)
        body.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{LONGEST_S}s", "--timeout", "30s", "--latency"]
        script = ["-s", str(SCRIPT), server.url + request.path, "--", request.method, request.content_type, body.name]
        seen: dict[str, int] = {"requests": 0}
        while not seen["requests"] and seconds < PATIENCE_S:
            seen = json.loads(_interrupted([*command, *script], seconds).splitlines()[-1])
            seconds *= 2
    if seen["bad_status"] or seen["socket_errors"] or not seen["requests"]:
        raise RuntimeError(
            f"{seen['requests']} requests answered over {connections} connections, {seen['bad_status']} of them with "
            f"an error status; {seen['socket_errors']} errors on sockets"
        )
    return Load(seen["requests"] / (seen["duration_us"] / 1e6), seen["p50_us"] / 1e3, seen["p99_us"] / 1e3)


def _interrupted(command: list[str], seconds: float) -> str:
    """wrk knows whole seconds only, but says what it saw when it is interrupted: from its first line on it listens
    to that, and `stdbuf` lets us have the line at once."""
    process = subprocess.Popen(
        ["stdbuf", "-oL", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        time.sleep(seconds)
        deadline = time.monotonic() + WITHIN_S
        while process.poll() is None and time.monotonic() < deadline:
            process.send_signal(signal.SIGINT)  # again, should it not have been asleep yet
            time.sleep(SIGNAL_AGAIN_S)
    finally:
        process.kill()
        output, errors = process.communicate()
    if not output.strip():
        raise RuntimeError(f"wrk: {errors.strip() or 'no output'}")
    return output


def run_open(
    server: Server, request: Request, *, rate: float, seconds: float, connections: int, warmup_s: float | None = None
) -> dict[str, Any]:
    """What `salver bench` saw with Poisson arrivals. Raises RuntimeError if nobody answers."""
    if warmup_s is None:
        warmup_s = min(1.0, seconds / 2)
    command = [str(Path(sys.executable).with_name("salver")), "bench", server.url + request.path, "--json"]
    options = ["--rate", f"{rate:g}", "--arrivals", "poisson", "--duration", f"{seconds:g}s"]
    more = ["--warmup", f"{warmup_s:g}s", "--connections", str(connections), "--method", request.method]
    if request.content_type:
        more += ["-H", f"content-type: {request.content_type}"]
    if request.body:
        more += ["--data", request.body.decode()]
    finished = subprocess.run(
        [*command, *options, *more], capture_output=True, text=True, check=False, timeout=seconds + WITHIN_S
    )
    if not finished.stdout:
        raise RuntimeError(f"salver bench: {finished.stderr.strip()}")
    return json.loads(finished.stdout)["runs"][0]
