"""The supervisor as a process: an interpreter of its own, or the child of a command (``supervisor_start``)."""

from __future__ import annotations

import gc
import sys

from setproctitle import setproctitle

from salver.engine.local.supervisor import Supervisor
from salver.engine.local.supervisor_start import SupervisorStart, received


def main() -> None:
    """Entry point of a new interpreter; its argument is a descriptor with what it is given."""
    gc.disable()  # importing makes no garbage worth looking for (a tenth of the time to start)
    start = received(int(sys.argv[1]))
    setproctitle(f"salver: supervisor {start.instance.name}")
    run(start)


def run(start: SupervisorStart) -> None:
    """Be the supervisor until the instance ends."""
    Supervisor(
        start.instance,
        listening=start.listening,
        proxies=start.proxies,
        lifeline=start.lifeline,
        lock=start.lock,
        starter=start.starter,
        settings=start.settings,
    ).run()
