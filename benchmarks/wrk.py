"""wrk, the load generator: one thread, closed loop (each connection sends its next request after an answer)."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("wrk.lua")
MISSING = "This benchmark needs wrk, an HTTP load generator. Debian and Ubuntu have it as a package: apt install wrk"
MISSING_EXIT_CODE = 2


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw."""

    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float


def require_wrk() -> None:
    """Ends the program with a sentence that helps, unless wrk is installed."""
    if shutil.which("wrk") is None:
        print(MISSING, file=sys.stderr)
        sys.exit(MISSING_EXIT_CODE)


def wrk_version() -> str | None:
    """As in `4.1.0-3`; None when wrk is not installed."""
    if shutil.which("wrk") is None:
        return None
    # wrk prints its version, then its usage, and exits with 1.
    words = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout.split()
    return words[1].removeprefix("debian/") if len(words) > 1 else None


def run_wrk(url: str, *, connections: int, seconds: int) -> Load:
    """Loads `url` for `seconds` (whole ones: wrk knows no others). Raises RuntimeError if any request failed:
    a fast 503 must not count as speed."""
    arguments = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(SCRIPT)]
    output = subprocess.run(["wrk", *arguments, url], capture_output=True, text=True, check=True).stdout
    seen = json.loads(output.splitlines()[-1])
    if seen["bad_status"] or seen["socket_errors"] or not seen["requests"]:
        raise RuntimeError(
            f"{seen['requests']} requests answered by {url} over {connections} connections, {seen['bad_status']} of "
            f"them with an error status; {seen['socket_errors']} errors on sockets: there is nothing to measure"
        )
    return Load(
        connections=connections,
        requests_per_second=seen["requests"] / (seen["duration_us"] / 1e6),
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
    )
