"""A headless Chromium with one page, and what that page reports.

Nothing of Chromium's internals is needed: a script at the end of the page works it as a user would, and sends what it
sees by ``report(...)`` to a server of the test's.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness.processes import descendants
from harness.waiting import eventually

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--no-proxy-server",
    "--password-store=basic",
    "--ignore-certificate-errors",
)
_REPORT = """<script>
const report = what => fetch("http://127.0.0.1:%d/", {method: "POST", mode: "no-cors", body: JSON.stringify(what)});
const until = async condition => { while (!condition()) await new Promise(done => setTimeout(done, 10)); };
addEventListener("error", event => report({error: event.message}));
addEventListener("unhandledrejection", event => report({error: String(event.reason)}));
(async () => {
%s
})();
</script>
"""
_GONE_WITHIN_S = 10.0


def find_browser() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Reports:
    """A server for what pages report.

    Attributes:
        port: on 127.0.0.1.
    """

    def __init__(self) -> None:
        self._received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        received = self._received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(204)
                self.end_headers()
                received.put(json.loads(body))

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - the name of the base

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="reports")
        self._thread.start()

    def driven(self, page: str, script: str) -> str:
        """``page`` with ``script`` at its end: statements, which may ``await``, ``report(value)`` and
        ``await until(condition)``.
        """
        return page + _REPORT % (self.port, script)

    def next(self, within: float) -> Any:
        """The next report. Raises AssertionError when none comes in time, or when it is an error of the page's."""
        try:
            report = self._received.get(timeout=within)
        except queue.Empty:
            raise AssertionError(f"the page reported nothing within {within:g} s") from None
        assert not (isinstance(report, dict) and "error" in report), report
        return report

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def browsing(url: str, folder: Path) -> Generator[None]:
    """Chromium shows ``url`` meanwhile; all that it writes is in ``folder``, and its processes are gone after it."""
    browser = find_browser()
    assert browser is not None
    own = {name: str(folder) for name in ("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [browser, *_FLAGS, f"--user-data-dir={folder / 'profile'}", url],
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        eventually("every process of Chromium ends", lambda: _killed(process.pid), _GONE_WITHIN_S)
        process.wait(_GONE_WITHIN_S)


def _killed(session: int) -> bool:
    """Kill all of a session. Returns whether none is left."""
    members = [pid for pid in descendants(os.getpid()) if _session(pid) == session]
    for pid in members:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return not members


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
