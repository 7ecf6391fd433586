"""Commands as a person sees them: on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess

from harness.instance import SalverRun, command_line

_ENDS_WITHIN_S = 60.0


def on_a_terminal(run: SalverRun, *argv: str, said: str = "", until: str = "") -> tuple[int | None, str]:
    """Run a command on a terminal of its own: its exit code, None when it was ended after ``until``, and output.

    Args:
        said: what is typed.
    """
    terminal, its_side = pty.openpty()
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(run.runtime), "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        command_line(("salver", *argv)),
        cwd=run.cwd,
        env=environment,
        stdin=its_side,
        stdout=its_side,
        stderr=its_side,
    )
    os.close(its_side)
    os.write(terminal, said.encode())
    output = ""
    try:
        while not (until and until in output):
            output += os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # the other side is closed: it has ended
        pass
    if until:
        process.kill()
    code = process.wait(_ENDS_WITHIN_S)
    os.close(terminal)
    return None if until else code, output
