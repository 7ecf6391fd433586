"""``python -m salver.serve.declared.build_job PARENT``: builds one config's applications for the controller.

Imports run the user's code, so each application is built in a forked child of its own: two may have modules of the
same name, other environment variables, another folder. Up to four are built at a time. The children write to pipes;
this process hands on whole messages only, so that a child that is killed in the middle of one spoils nothing.
``build_messages`` says what is read and written; whatever user code prints goes to standard error.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

import msgspec

from salver.controller.build_messages import (
    MAX_MESSAGE_BYTES,
    Accepted,
    BuildMessage,
    BuildRequest,
    Built,
    Failed,
    Invalid,
    Progress,
    decoded,
    framed,
)
from salver.engine.local.process import end_with_parent, exit_cause, fork, kill_group
from salver.records import JsonDict
from salver.serve.declared.config_file import validate_config
from salver.serve.declared.declared_application import build_declared
from salver.serve.declared.mistakes import broken_process, invalid_config, mistakes_of, why_not_built
from salver.serve.schema.deploy import ServeApplicationSchema, ServeDeploySchema
from salver.serve.validation import OptionsError

_AT_A_TIME = 4
_READ_BYTES = 1 << 20
_END_WITHIN_S = 5.0


def main() -> None:
    """Read the request, answer, build, end."""
    end_with_parent(int(sys.argv[1]), signal.SIGTERM)
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=BuildRequest)
    output = os.dup(1)
    os.dup2(2, 1)  # what user code prints is not for the controller
    try:
        schema = validate_config(request.config)
    except OptionsError as error:
        _write(output, Invalid(invalid_config(error)))
        return
    names = tuple(application.name for application in schema.applications)
    _write(output, Accepted(names, schema.target_capacity, tuple(map(str, schema.warnings()))))
    _Builds(request, schema, output).run()


class _Wanted(NamedTuple):
    """One application to build.

    Attributes:
        place: in the config.
        config: what that says of it, as it does.
    """

    place: int
    application: ServeApplicationSchema
    config: JsonDict


@dataclass(slots=True)
class _Child:
    """The process that builds one application, and what it has written so far."""

    wanted: _Wanted
    pid: int
    received: bytearray = field(default_factory=bytearray)
    finished: bool = False

    def messages(self) -> Iterator[BuildMessage]:
        """Take the whole messages out of ``received``. Raises ValueError for what is none."""
        while len(self.received) >= 4:
            size = int.from_bytes(self.received[:4], "little")
            if size > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {size} bytes")
            if len(self.received) < 4 + size:
                return
            message = bytes(memoryview(self.received)[4 : 4 + size])
            del self.received[: 4 + size]
            yield decoded(message)


class _Builds:
    """All applications of a config, some at a time."""

    def __init__(self, request: BuildRequest, schema: ServeDeploySchema, output: int) -> None:
        self._request = request
        self._schema = schema
        self._output = output
        configs: list[JsonDict] = request.config["applications"]
        both = zip(schema.applications, configs, strict=True)
        every = [_Wanted(place, *each) for place, each in enumerate(both)]
        self._pending = [each for each in every if request.only is None or each.application.name in request.only]
        self._running: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Build all of them."""
        signal.signal(signal.SIGTERM, self._terminate)
        while self._pending or self._running:
            while self._pending and len(self._running) < _AT_A_TIME:
                self._start(self._pending.pop(0))
            for key, _ in self._selector.select():
                self._receive(key.fd)

    def _start(self, wanted: _Wanted) -> None:
        reading, writing = os.pipe()

        def build() -> None:
            os.set_blocking(writing, True)
            _build(wanted, self._schema, self._request, writing)

        title = f"salver: build {wanted.application.import_path}"
        pid = fork(title, build, close=[self._output, reading, *self._running])
        os.close(writing)
        self._running[reading] = _Child(wanted, pid)
        self._selector.register(reading, selectors.EVENT_READ)

    def _receive(self, descriptor: int) -> None:
        child = self._running[descriptor]
        data = os.read(descriptor, _READ_BYTES)
        child.received += data
        try:
            for message in child.messages():
                child.finished = child.finished or isinstance(message, Built | Failed)
                _write(self._output, message)
        except ValueError:  # user code has written to a descriptor that is not its own
            data = b""
        if not data or child.finished:
            self._end(descriptor, child)

    def _end(self, descriptor: int, child: _Child) -> None:
        """The child has nothing more to say; what it has started goes with it."""
        self._selector.unregister(descriptor)
        os.close(descriptor)
        del self._running[descriptor]
        if not child.finished:
            place, application, config = child.wanted
            how = f"its process has ended: {_end_of(child.pid)}"
            message = f"{application.import_path}: {how}"
            _write(self._output, Failed(application.name, message, broken_process(place, config, how)))
        kill_group(child.pid)
        os.waitpid(child.pid, 0)

    def _terminate(self, _number: int, _frame: object) -> NoReturn:
        for child in self._running.values():
            kill_group(child.pid)
        for child in self._running.values():
            os.waitpid(child.pid, 0)  # so that whoever waits for us knows that they are gone
        os._exit(1)


def _build(wanted: _Wanted, schema: ServeDeploySchema, request: BuildRequest, output: int) -> None:
    """Build one, in a child, and say what came of it."""
    place, application, config = wanted

    def progress(text: str) -> None:
        _write(output, Progress(application.name, text))

    try:
        spec = build_declared(application, config, schema.logging_config, request.code, progress)
        _write(output, Built(spec))
    except BaseException as error:  # noqa: BLE001 - anything the user's module raises, SystemExit included
        failed = Failed(application.name, why_not_built(config, error), mistakes_of(place, config, error))
        _write(output, failed)


def _end_of(pid: int) -> str:
    """How a child ended that closed its pipe; it is still to be reaped. The one comes a moment before the other."""
    ending = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([ending], [], [], _END_WITHIN_S)
    finally:
        os.close(ending)
    result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) if ended else None
    return "closed its pipe" if result is None else exit_cause(result.si_code, result.si_status)


def _write(descriptor: int, message: BuildMessage) -> None:
    rest = memoryview(framed(message))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


if __name__ == "__main__":
    main()
