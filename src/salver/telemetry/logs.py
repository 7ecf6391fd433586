"""The log of one of our own processes: to stderr, to its file, in the format and from the level that it was told.

Only processes that are ours configure logging; ``import salver`` never does.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from salver.records import LoggingSpec
from salver.telemetry.access_log import AccessLog
from salver.telemetry.log_file import LogFile, log_file_name
from salver.telemetry.log_lines import DEFAULT_LOGGING, JSON, line_formatter
from salver.telemetry.log_queue import LogQueue
from salver.telemetry.printed import replace_standard_streams
from salver.telemetry.record_attributes import OUR_LOGGERS
from salver.telemetry.terminal import Terminal

FLUSH_WITHIN_S = 1.0

_SHOW_CLIENTS = ("SALVER_LOG_CLIENT_ADDRESS", "RAY_SERVE_LOG_CLIENT_ADDRESS")


class ProcessLog(logging.Handler):
    """The handler of Salver's and the user's Serve loggers.

    Args:
        component, identity: who speaks in each line.
        spec: how; its ``logs_dir`` is where the file is.
        folder: where the file is when ``spec`` does not say; None for no file.
        on_terminal: whether lines go to stderr.
    """

    def __init__(
        self, component: str, identity: str, spec: LoggingSpec, *, folder: Path | None, on_terminal: bool
    ) -> None:
        super().__init__()
        self._component = component
        self._identity = identity
        self._folder = folder
        self._on_terminal = on_terminal
        self._default = spec
        self._stderr = LogQueue(Terminal(2), self._note)
        self._stdout = self._stderr
        self._file: LogQueue | None = None
        self._open_file: LogFile | None = None
        self.apply(spec)

    def apply(self, spec: LoggingSpec | None) -> None:
        """Log like this from now on, None for as at first. What it leaves open is as at first."""
        spec = spec or self._default
        self.spec = LoggingSpec(
            encoding=spec.encoding or self._default.encoding,
            log_level=spec.log_level,
            logs_dir=spec.logs_dir or self._default.logs_dir,
            enable_access_log=spec.enable_access_log,
            additional_attributes=spec.additional_attributes,
        )
        self.setFormatter(line_formatter(self.spec, self._component, self._identity))
        self._use_file(Path(self.spec.logs_dir) if self.spec.logs_dir else self._folder)
        for name in OUR_LOGGERS:
            logging.getLogger(name).setLevel(self.spec.log_level)
        logging.getLogger("salver.access").setLevel(
            logging.NOTSET if self.spec.enable_access_log else logging.WARNING
        )

    def _use_file(self, folder: Path | None) -> None:
        path = folder / log_file_name(self._component, self._identity) if folder is not None else None
        if self.spec.logs_dir and folder is not None and path is not None:
            with suppress(OSError):  # then each write says so
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._folder is not None and folder.resolve() != self._folder.resolve():
                _link(self._folder / f"{path.stem}.elsewhere.log", path)
        if self._file is not None and path is not None and self._file.name == str(path):
            return
        if self._file is not None:
            self._file.close()
        self._file = LogQueue(LogFile(path), self._note) if path is not None else None
        self._stderr.beside = self._file
        if self._file is not None:
            self._file.beside = self._stderr

    # --- lines ------------------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self._line(record))
        except Exception:  # noqa: BLE001 - a message whose arguments do not fit, as in any handler
            self.handleError(record)

    def write(self, lines: bytes) -> None:
        """Whole lines, to everywhere."""
        if self._on_terminal:
            self._stderr.write(lines)
        if self._file is not None:
            self._file.write(lines)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _note(self, text: str) -> bytes:
        return self._line(logging.LogRecord("salver.telemetry", logging.WARNING, __file__, 0, text, None, None))

    def flush(self, within_s: float = FLUSH_WITHIN_S) -> None:
        """Wait until everything that was logged has been written, at most ``within_s`` seconds."""
        deadline = time.monotonic() + within_s
        for queue in (self._file, self._stderr, self._stdout):
            if queue is not None:
                queue.flush(max(0.0, deadline - time.monotonic()))

    # --- what is not a record ---------------------------------------------------------------------------

    def access_log(self) -> AccessLog | None:
        """Where to note requests; None when that is not wanted."""
        if not self.spec.enable_access_log:
            return None
        return AccessLog(
            self.write,
            encoding=self.spec.encoding,
            component=self._component,
            identity=self._identity,
            shows_clients=any(os.environ.get(name) == "1" for name in _SHOW_CLIENTS),
        )

    def take_what_is_printed(self) -> None:
        """Have what code prints in the log, too."""
        if not _same_file(1, 2):
            self._stdout = LogQueue(Terminal(1), self._note)
            self._stdout.beside = self._file
        replace_standard_streams(self._print_out, self._print_err, self._printed)

    def _print_out(self, data: bytes) -> None:
        if self._on_terminal and self.spec.encoding != JSON:
            self._stdout.write(data)

    def _print_err(self, data: bytes) -> None:
        if self._on_terminal and self.spec.encoding != JSON:
            self._stderr.write(data)

    def _printed(self, stream: str, text: str) -> None:
        """In text mode a terminal has it as it was printed, already; among JSON lines it must be one."""
        make = logging.getLogRecordFactory()
        record = make(f"salver.printed.{stream}", logging.INFO, f"<{stream}>", 0, text, (), None)
        if self.spec.encoding == JSON:
            self.write(self._line(record))
        elif self._file is not None:
            self._file.write(self._line(record))


_log: ProcessLog | None = None


def configure_logging(
    component: str,
    identity: str,
    spec: LoggingSpec = DEFAULT_LOGGING,
    *,
    folder: Path | None = None,
    on_terminal: bool = True,
) -> ProcessLog:
    """Send records of Salver's and the user's Serve loggers to this process's outlets.

    Arguments are those of ``ProcessLog``.

    What is on its way when the interpreter ends is written then, by ``logging.shutdown``; a process that leaves by
    ``os._exit`` calls ``flush_logs`` before.
    """
    global _log
    log = ProcessLog(component, identity, spec, folder=folder, on_terminal=on_terminal)
    for name in OUR_LOGGERS:
        named = logging.getLogger(name)
        named.handlers[:] = [log]
        named.propagate = False
    _log = log
    return log


def flush_logs() -> None:
    """Write what was logged so far, within a second."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # closed, or nobody reads it
    if _log is not None:
        _log.flush()


def _link(name: Path, file: Path) -> None:
    """``salver logs`` looks in the instance's folder."""
    with suppress(OSError):
        name.unlink(missing_ok=True)
        name.symlink_to(file.absolute())


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
