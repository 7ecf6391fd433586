"""How long from `salver run` to the first answer.

    python benchmarks/startup.py
    python benchmarks/startup.py --starts 30

The clock starts just before the process does and stops when the first `200 OK` has arrived at a client that tries to
connect a thousand times a second. The command's own "Ready in" is shown beside it; it comes a little later, because
the command learns of it from the controller. One start before the measured ones fills the file cache.
"""

import argparse
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from report import RESULTS, Environment, Row, Section, write
from servers import salver

READY = re.compile(r"^Ready in (\d+\.\d+) s", re.MULTILINE)
READY_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Start:
    first_200_seconds: float
    ready_line_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starts", type=int, default=10, help="how many are measured (default 10)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    environment = Environment()
    start_once()
    starts = [start_once() for _ in range(options.starts)]
    write("startup", environment, [section(starts)], options.output)


def start_once() -> Start:
    """One start of the no-op application, and its end."""
    with salver("noop:app") as server:
        return Start(server.first_200_after, _ready_line(server.log))


def _ready_line(log: Path) -> float:
    deadline = time.perf_counter() + READY_TIMEOUT
    while (match := READY.search(log.read_text())) is None:
        if time.perf_counter() > deadline:
            raise RuntimeError(f"`salver run` answers but has not said `Ready in …`:\n{log.read_text()}")
        time.sleep(0.01)
    return float(match[1])


def section(starts: list[Start]) -> Section:
    """Median, fastest and slowest."""
    answers = [start.first_200_seconds for start in starts]
    lines = [start.ready_line_seconds for start in starts]
    return Section(
        title="Start",
        how=f"`salver run` of the no-op application to its first `200 OK`, seen from outside; {len(starts)} starts.",
        rows=[
            Row("process start to first 200, median", f"{median(answers):.2f} s", "≤ 0.8 s"),
            Row("fastest / slowest", f"{min(answers):.2f} / {max(answers):.2f} s"),
            Row("the command's own `Ready in`, median", f"{median(lines):.2f} s"),
        ],
        numbers={
            "first_200_median_seconds": median(answers),
            "ready_line_median_seconds": median(lines),
            "starts": [asdict(start) for start in starts],
        },
    )


if __name__ == "__main__":
    main()
