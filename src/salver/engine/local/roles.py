"""What each forked process runs: an event loop, one object of the data or control plane, a clean end on SIGTERM."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from importlib import import_module
from typing import Any

import uvloop

from salver.data.channel import connect_unix
from salver.data.context import ReplicaIdentity
from salver.data.current import serve_calls_from
from salver.data.http.options import ProxyOptions
from salver.data.http.proxy import Proxy
from salver.data.load_board import LoadBoard
from salver.data.log_attributes import log_attributes
from salver.data.metrics_push import MetricsPush
from salver.data.replica.control_thread import ControlThread
from salver.data.replica.replica import Replica
from salver.engine.interface import ReplicaProcess
from salver.engine.local.client import stack_file
from salver.engine.local.heap import keep_freed_memory
from salver.engine.local.instance import Instance
from salver.engine.local.log_folder import logging_of
from salver.engine.local.pulse import answer
from salver.engine.local.reservation import announce_reservation
from salver.engine.local.settings import BACKLOG, ControllerStart
from salver.engine.local.source_finder import import_from
from salver.errors import ConfigurationError, StartupError
from salver.records import CodeContext, LoggingSpec
from salver.telemetry.access_log import AccessLog
from salver.telemetry.logs import ProcessLog, configure_logging
from salver.telemetry.metrics import registry
from salver.telemetry.record_attributes import add_record_attributes
from salver.wire.messages import PROTOCOL_VERSION, Hello

logger = logging.getLogger("salver.engine")

_CANNOT_START = 3

_REFERENCE = re.compile(r"\$\{(\w+)\}")
"""``${NAME}`` in a variable of the user's: what NAME was before, or nothing."""


def run_proxy(
    instance: Instance, key: bytes, sockets: list[socket.socket], options: ProxyOptions, pulse: socket.socket
) -> None:
    """The HTTP ingress, on sockets that listen already; the supervisor asks on ``pulse`` whether it answers."""
    keep_freed_memory()
    log = start_logging(instance, "proxy", str(os.getpid()))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one descriptor a client: the usual 1,024 are few
    try:
        uvloop.run(_proxy(instance, key, sockets, options, pulse, log.access_log()))
    except ConfigurationError as error:  # it was in order at launch: what the options name has changed since then
        logger.error("the proxy cannot start: %s", error)  # noqa: TRY400 - where we noticed helps nobody
        sys.exit(1)


async def _proxy(
    instance: Instance,
    key: bytes,
    sockets: list[socket.socket],
    options: ProxyOptions,
    pulse: socket.socket,
    access_log: AccessLog | None,
) -> None:
    terminated = on_sigterm()
    answer(pulse)
    proxy = Proxy(
        connect=connect_unix,
        controller_address=instance.routing_address,
        hello=Hello(PROTOCOL_VERSION, key, "proxy"),
        board=LoadBoard(instance.board),
        options=options,
        metrics=MetricsPush(registry),
        access_log=access_log,
    )
    await proxy.start(sockets)
    await terminated.wait()
    await proxy.drain()
    await proxy.stop()


def run_replica(
    instance: Instance, key: bytes, process: ReplicaProcess, listening: socket.socket, gpus: tuple[int, ...]
) -> None:
    """One replica, on its own listening socket; ``gpus`` are those of the instance."""
    announce_reservation(process, gpus)
    os.environ["SALVER_INSTANCE_FOLDER"] = str(instance.folder)
    keep_freed_memory()
    log = start_logging(instance, "replica", process.replica_id, process.logging)
    log.take_what_is_printed()
    identity = ReplicaIdentity(process.deployment.app, process.deployment.name, process.replica_id)
    add_record_attributes(partial(log_attributes, identity))
    with stack_file(instance.folder, process.replica_id).open("a") as stacks:
        faulthandler.enable(stacks)  # a crash in native code leaves a trace
        faulthandler.register(signal.SIGUSR2, stacks, all_threads=False)
        uvloop.run(_replica(instance, key, process, listening, log))


async def _replica(
    instance: Instance, key: bytes, process: ReplicaProcess, listening: socket.socket, log: ProcessLog
) -> None:
    board = LoadBoard(instance.board)
    push = MetricsPush(registry)
    replica = Replica(
        key=key, board=board, slot=process.slot, prepare=make_importable, metrics=push, on_logging=log.apply
    )
    stop_calls = serve_calls_from(
        connect=connect_unix,
        controller_address=instance.routing_address,
        hello=Hello(PROTOCOL_VERSION, key, process.replica_id),
        board=board,
    )
    server = await asyncio.get_running_loop().create_unix_server(replica.accept, sock=listening, backlog=BACKLOG)
    control = ControlThread(board, process.slot, process.deployment.name)
    told_to_drain = asyncio.create_task(_told_to_end(replica, control))
    drained = asyncio.create_task(replica.drained.wait())
    await asyncio.wait({told_to_drain, drained}, return_when=asyncio.FIRST_COMPLETED)
    told_to_drain.cancel()
    replica.drain()
    await drained
    server.close()
    await replica.close()
    await stop_calls()
    control.stop()


async def _told_to_end(replica: Replica, control: ControlThread) -> None:
    """Wait for SIGTERM. A constructor has nothing to finish: until it returns, the signal keeps its deadly effect."""
    await replica.constructed.wait()
    control.start()
    await on_sigterm().wait()


def start_logging(instance: Instance, component: str, identity: str, spec: LoggingSpec | None = None) -> ProcessLog:
    """Log as the instance does, or as ``spec`` says where it says something."""
    logging = logging_of(instance)
    log = configure_logging(component, identity, logging.spec, folder=instance.logs, on_terminal=logging.on_terminal)
    log.apply(spec)
    return log


RunController = Callable[[ControllerStart], None]


def run_controller(start: ControllerStart) -> None:
    """The controller; imported by name, for it is a layer above this one.

    Without what is saved it does not begin: it would take all that runs for unwanted. Requests are served meanwhile.
    """
    start_logging(start.instance, "controller", str(os.getpid()))
    main: Callable[[ControllerStart], Coroutine[Any, Any, None]] = import_module("salver.controller.process").main
    try:
        uvloop.run(main(start))
    except StartupError as error:
        logger.error("the controller cannot start: %s", error)  # noqa: TRY400 - where we noticed helps nobody
        sys.exit(_CANNOT_START)


def make_importable(code: CodeContext) -> None:
    """Give this process the import path, the folder and the variables that its code was deployed with."""
    for name, value in code.env_vars.items():  # first: modules read them when they are imported
        os.environ[name] = _REFERENCE.sub(lambda found: os.environ.get(found[1], ""), value)
    if code.cwd:
        os.chdir(code.cwd)
    own = [entry for entry in sys.path if entry not in code.sys_path]
    sys.path[:] = [*code.sys_path, *own]
    import_from(code.sources)
    for place in code.setup:
        module, _, name = place.partition(":")
        getattr(import_module(module), name)()


def on_sigterm() -> asyncio.Event:
    """An event that SIGTERM sets."""
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, event.set)
    return event
