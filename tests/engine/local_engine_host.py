"""A real supervisor whose controller is the conformance suite. Run as a module: ``engine.local_engine_host RESULT``.

The suite runs in the forked controller process, over the inherited link, like the real one; what came of it is
written to RESULT, and SIGTERM to the supervisor ends everything.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from salver.data.channel import connect_unix
from salver.data.load_board import create_load_board
from salver.engine.local.client import LocalEngine
from salver.engine.local.instance import Instance, create_instance
from salver.engine.local.log_folder import prepare_logs
from salver.engine.local.pulse import answer
from salver.engine.local.settings import ControllerStart, Listening
from salver.engine.local.supervisor import Supervisor
from salver.records import LoggingSpec

from .conformance import check_engine, emptied
from .world import World


def main(result: Path, run: Callable[[Instance, bytes, socket.socket], Coroutine[Any, Any, object]]) -> None:
    """Run ``run`` as the controller of a supervisor; ``passed`` and what it returned, or its traceback, to result."""
    instance, lock = create_instance("conformance")
    instance.key_file.touch(mode=0o600)
    instance.key_file.write_bytes(secrets.token_bytes(32))
    create_load_board(instance.board)
    prepare_logs(instance, LoggingSpec(), on_terminal=False, as_service=False)
    lifeline, _held = os.pipe()

    async def answering(start: ControllerStart) -> object:
        answer(start.pulse)
        return await run(start.instance, start.key, start.link)

    def run_suite(start: ControllerStart) -> None:
        try:
            outcome = f"passed {asyncio.run(answering(start))}"
        except BaseException:
            outcome = traceback.format_exc()
        result.write_text(outcome)
        os.kill(os.getppid(), signal.SIGTERM)

    Supervisor(
        instance,
        listening=Listening([], socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)),
        proxies=0,
        lifeline=lifeline,
        lock=lock,
        starter=os.getppid(),
        controller=run_suite,
    ).run()


async def suite(instance: Instance, key: bytes, link: socket.socket) -> int:
    world = World(LocalEngine(link, instance.folder, on_lost=lambda: None), connect_unix, key)
    world.open()

    @asynccontextmanager
    async def make_engine() -> AsyncIterator[World]:
        async with emptied(world):
            yield world

    checks = await check_engine(make_engine)
    await world.engine.close()
    return checks


if __name__ == "__main__":
    main(Path(sys.argv[1]), suite)
