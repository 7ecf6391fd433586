"""The controller as a process: control API and routing socket around one Controller."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

from salver.controller.api import ControlServer
from salver.controller.checkpoint import SQLiteCheckpoint
from salver.controller.controller import Controller
from salver.data.channel import connect_unix
from salver.engine.local.client import LocalEngine
from salver.engine.local.instance import Instance
from salver.records import Capacity


async def main(
    instance: Instance,
    key: bytes,
    link: socket.socket,
    control: socket.socket,
    routing: socket.socket,
    epoch: int,
) -> None:
    """Run until SIGTERM, or until the supervisor lets go.

    Args:
        link: to the supervisor.
        control, routing: sockets that listen for the control API and for subscribers.
    """
    terminated = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    controller = Controller(
        engine=LocalEngine(link, instance.folder, on_lost=terminated.set, capacity=Capacity()),
        checkpoint=SQLiteCheckpoint(instance.checkpoint),
        connect=connect_unix,
        key=key,
        epoch=epoch,
    )
    await controller.start()
    publishing = await loop.create_unix_server(controller.publisher.accept, sock=routing)
    api = ControlServer(controller, instance.info, pid=os.getpid())
    serving = asyncio.create_task(api.serve(control))
    stopped = asyncio.create_task(terminated.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    publishing.close()
    controller.end_waits()
    await api.stop()
    await serving
    await controller.stop()
