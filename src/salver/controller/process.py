"""The controller as a process: control API and routing socket around one Controller."""

from __future__ import annotations

import asyncio
import os
import signal

from salver.controller.api import ControlServer
from salver.controller.checkpoint import FileCheckpoint
from salver.controller.controller import Controller
from salver.controller.declarations import Declarations
from salver.controller.unreadable_state import start_when_readable
from salver.data.channel import connect_unix
from salver.data.load_board import LoadBoard
from salver.engine.local.admin_token import valid_tokens
from salver.engine.local.client import LocalEngine
from salver.engine.local.instance import ask_to_end
from salver.engine.local.pulse import answer
from salver.engine.local.settings import BACKLOG, ControllerStart


async def main(start: ControllerStart) -> None:
    """Run until SIGTERM, or until the supervisor lets go."""
    instance = start.instance
    answer(start.pulse)
    terminated = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    controller = Controller(
        engine=LocalEngine(start.link, instance.folder, on_lost=terminated.set, capacity=start.settings.capacity),
        checkpoint=FileCheckpoint(instance.state, start.epoch),
        connect=connect_unix,
        key=start.key,
        epoch=start.epoch,
        board=LoadBoard(instance.board),
        folder=instance.folder,
        awaits_deploy=start.settings.awaits_deploy,
    )
    declarations = Declarations(
        instance.folder,
        deploy=controller.deploy,
        delete=controller.delete,
        declared=controller.declared,
        of_code=controller.deployed_by_code,
        set_capacity=controller.set_capacity,
        tell=controller.tell,
        still_to_come=controller.still_to_come.are,
    )
    if not await start_when_readable(controller, start, terminated):
        return
    declarations.start()
    routing = start.listening.routing
    publishing = await loop.create_unix_server(controller.publisher.accept, sock=routing, backlog=BACKLOG)
    api = ControlServer(
        controller,
        instance.info,
        pid=os.getpid(),
        end_instance=lambda: ask_to_end(instance.info().pid),
        tokens=lambda: valid_tokens(instance),
        configs=declarations,
        logs=str(instance.logs or ""),
    )
    serving = asyncio.create_task(api.serve(start.listening.control, start.listening.admin))
    stopped = asyncio.create_task(terminated.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    publishing.close()
    controller.end_waits()
    await api.stop()
    await serving
    await declarations.stop()
    await controller.stop()
