"""Where an instance's log files are: ``$XDG_STATE_HOME/salver/logs/<instance>-<start>/``.

Not beside the folders of instances, which are in memory on many machines. Without XDG_STATE_HOME it is
``~/.local/state``, and where there is no such place to write to, they are beside those folders after all.

They are for this user only, and kept when the instance ends, since that is when people want to read them; those of
the last ten instances are. With a folder of the user's choice, the one here is a link to it.

How an instance logs is noted in its own folder, where every process that is forked finds it, a restarted one, too.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from salver.engine.local.instance import LOGS, Instance, instances_root
from salver.errors import StartupError
from salver.records import LoggingSpec
from salver.telemetry.log_file import LogFile, log_file_name
from salver.telemetry.log_lines import JSON, TEXT, line_formatter
from salver.telemetry.terminal import Terminal

KEPT = 10
"""Instances whose logs are kept."""

SUPERVISOR_FILE = "supervisor_output.log"
"""What a detached instance's processes write to stdout and stderr themselves: it has no terminal."""


class InstanceLogging(Struct, frozen=True):
    """How an instance logs.

    Attributes:
        spec: with an encoding.
        on_terminal: whether lines go to stderr as well.
    """

    spec: LoggingSpec
    on_terminal: bool


_decoder = msgspec.json.Decoder(InstanceLogging)
"""Made before the first fork: each child would make its own, and copy 100 KB of shared pages for that."""


def prepare_logs(instance: Instance, spec: LoggingSpec, *, on_terminal: bool, as_service: bool) -> Path:
    """Make the folder of a new instance's logs and note how it logs; returns the folder.

    Args:
        as_service: it was started to stay, so that programs read what it writes: JSON where stderr is no terminal and
            nothing else was said.

    Raises:
        StartupError: the folder cannot be made.
    """
    encoding = spec.encoding or (JSON if as_service and not os.isatty(2) else TEXT)
    spec = msgspec.structs.replace(spec, encoding=encoding)
    place = _logs_root() / f"{instance.name}-{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(2).hex()}"
    try:
        if spec.logs_dir:
            folder = Path(spec.logs_dir).absolute()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.symlink_to(folder)
        else:
            folder = place
            folder.mkdir(mode=0o700)
    except OSError as error:
        raise StartupError(f"cannot make the folder of log files {error.filename}: {error.strerror}") from error
    _forget_the_oldest()
    (instance.folder / "logs").symlink_to(folder)
    instance.logging_file.write_bytes(msgspec.json.encode(InstanceLogging(spec, on_terminal)))
    return folder


def _logs_root() -> Path:
    """The folder of all of this user's logs, made when missing."""
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        root = (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "salver" / LOGS
        root.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.parent.mkdir(mode=0o700, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        if os.access(root, os.W_OK | os.X_OK):
            return root
    except (OSError, RuntimeError):  # a home that is read-only, or none at all
        pass
    root = instances_root() / LOGS
    root.mkdir(mode=0o700, exist_ok=True)
    return root


def logging_of(instance: Instance) -> InstanceLogging:
    """How it logs. Raises FileNotFoundError when it has ended."""
    return _decoder.decode(instance.logging_file.read_bytes())


def _forget_the_oldest() -> None:
    """Of all instances but those that run."""
    running = {place.resolve() for each in instances_root().iterdir() if (place := Instance(each).logs) is not None}
    for place in log_folders()[KEPT:]:
        if place.resolve() in running:
            continue
        if place.is_symlink():
            place.unlink(missing_ok=True)  # what it leads to is the user's
        else:
            import shutil  # with its compression libraries, which every process would carry

            shutil.rmtree(place, ignore_errors=True)


def log_folders(name: str = "") -> list[Path]:
    """The folders of instances' logs, the newest first.

    Args:
        name: of the instance, else all.
    """
    try:
        found = list(_logs_root().iterdir())
    except OSError:
        return []
    named = [place for place in found if not name or place.name.rsplit("-", 2)[0] == name]
    return sorted(named, key=lambda place: (place.name.rsplit("-", 2)[1:2], place.lstat().st_mtime), reverse=True)


def say_as_supervisor(instance: Instance, text: str) -> None:
    """A warning of the process that must neither wait nor have threads: what its stderr cannot take now is lost."""
    own = logging_of(instance)
    record = logging.LogRecord("salver.supervisor", logging.WARNING, __file__, 0, text, None, None)
    line = f"{line_formatter(own.spec, 'supervisor', instance.name).format(record)}\n".encode()
    folder = instance.logs
    if own.on_terminal:
        terminal = Terminal(2)
        terminal.say(line)
        terminal.close()
    if folder is not None:
        file = LogFile(folder / log_file_name("supervisor", instance.name))
        try:
            file.write(line)
        except OSError:
            pass  # a disk that is full
        finally:
            file.close()
