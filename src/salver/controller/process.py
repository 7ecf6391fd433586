"""The controller as a process: control API and routing socket around one Controller."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence

from salver.controller.api import ControlServer
from salver.controller.checkpoint import FileCheckpoint
from salver.controller.controller import Controller
from salver.controller.declarations import Declarations
from salver.data.channel import connect_unix
from salver.data.load_board import LoadBoard
from salver.engine.local.admin_token import valid_tokens
from salver.engine.local.client import LocalEngine
from salver.engine.local.instance import Instance, ask_to_end
from salver.records import Capacity


async def main(
    instance: Instance,
    key: bytes,
    link: socket.socket,
    control: socket.socket,
    routing: socket.socket,
    epoch: int,
    admin: Sequence[socket.socket],
    capacity: Capacity,
) -> None:
    """Run until SIGTERM, or until the supervisor lets go.

    Args:
        link: to the supervisor.
        control, routing: sockets that listen for the control API and for subscribers.
        admin: sockets that listen for the control API on TCP.
        capacity: what replicas can reserve.
    """
    terminated = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    controller = Controller(
        engine=LocalEngine(link, instance.folder, on_lost=terminated.set, capacity=capacity),
        checkpoint=FileCheckpoint(instance.state, epoch),
        connect=connect_unix,
        key=key,
        epoch=epoch,
        board=LoadBoard(instance.board),
        folder=instance.folder,
    )
    declarations = Declarations(
        instance.folder,
        deploy=controller.deploy,
        delete=controller.delete,
        declared=controller.declared,
        set_capacity=controller.set_capacity,
        tell=controller.tell,
    )
    await controller.start()
    declarations.start()
    publishing = await loop.create_unix_server(controller.publisher.accept, sock=routing)
    api = ControlServer(
        controller,
        instance.info,
        pid=os.getpid(),
        end_instance=lambda: ask_to_end(instance.info().pid),
        tokens=lambda: valid_tokens(instance),
        configs=declarations,
    )
    serving = asyncio.create_task(api.serve(control, admin))
    stopped = asyncio.create_task(terminated.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    publishing.close()
    controller.end_waits()
    await api.stop()
    await serving
    await declarations.stop()
    await controller.stop()
